"""Any model, server or file of predictions on any rows, without a pipeline."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from text2sql.config import Settings
from text2sql.errors import DataError
from text2sql.evaluation.benchmark import Candidates, _local, _unused, benchmark
from text2sql.evaluation.types import Evaluation

CONTEXT = "CREATE TABLE head (name VARCHAR, age INTEGER)"
GOLDS = ["SELECT name FROM head WHERE age > 30", "SELECT COUNT(*) FROM head", "SELECT name FROM head ORDER BY age"]


@pytest.fixture
def settings() -> Settings:
    return Settings.model_validate({"evaluation": {"databases": 2, "resamples": 50}})


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [{"question": f"q{i}", "context": CONTEXT, "answer": gold} for i, gold in enumerate(GOLDS)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def predictions(folder: Path, *texts: str) -> Path:
    path = folder / "answers.json"
    path.write_text(json.dumps(list(texts)))
    return path


def test_a_file_of_predictions_is_judged_and_gated(settings: Settings, rows: Path, tmp_path: Path):
    said = predictions(tmp_path, GOLDS[0], "SELECT COUNT(age) FROM head", GOLDS[2])
    evaluation, verdict = benchmark(settings, Candidates(predictions=said), rows)
    assert [system.name for system in evaluation.systems] == ["model"]
    assert (evaluation.model, evaluation.subject.source) == ("answers.json", "answers.json")
    assert evaluation.subject.figures["exact_match"] == pytest.approx(2 / 3)
    assert {row.slices["source"] for row in evaluation.rows} == {("rows.jsonl",)}
    assert [rule.name for rule in verdict.rules] == ["execution_accuracy.min", "max_vacuous", "beats_champion"]
    assert verdict.passed


def test_rows_that_are_set_aside_are_told(settings: Settings, rows: Path, tmp_path: Path, caplog):
    with rows.open("a") as file:
        file.write(json.dumps({"question": "q", "context": CONTEXT, "answer": "SELECT no FROM head, head"}) + "\n")
    benchmark(settings, Candidates(predictions=predictions(tmp_path, *GOLDS)), rows)
    assert "test rows set aside: does_not_run 1" in caplog.text


def test_rows_with_databases_are_judged_on_them(settings: Settings, tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    line = {"question": "q", "context": CONTEXT, "answer": GOLDS[0], "database": "heads.sqlite", "source": "ours"}
    rows.write_text(json.dumps(line) + "\n")
    with closing(sqlite3.connect(tmp_path / "heads.sqlite")) as writer, writer:
        writer.execute("CREATE TABLE head (name TEXT, age INTEGER)")
        writer.executemany("INSERT INTO head VALUES (?, ?)", [("a", 30), ("b", 32)])
    said = Candidates(predictions=predictions(tmp_path, "SELECT name FROM head WHERE age > 31"))
    generated, _ = benchmark(settings, said, rows)
    with_folder = settings.model_copy(update={"data": settings.data.model_copy(update={"databases": tmp_path})})
    real, _ = benchmark(with_folder, said, rows)
    assert [found.subject.figures["execution_accuracy"] for found in (generated, real)] == [0.0, 1.0]
    assert real.rows[0].database == "heads.sqlite"
    assert real.rows[0].slices["source"] == ("ours",)
    assert real.rows_digest != generated.rows_digest
    assert Evaluation.from_json(real.to_json()) == real


def test_a_model_is_held_against_others(settings: Settings, rows: Path, tiny_model: Path):
    short = settings.model_copy(update={"evaluation": settings.evaluation.model_copy(update={"max_new_tokens": 4})})
    both = Candidates(model=str(tiny_model), against=(str(tiny_model),))
    evaluation, _ = benchmark(short, both, rows)
    assert [system.name for system in evaluation.systems] == ["model", tiny_model.name]
    assert evaluation.comparisons[0].p_value == 1.0


def test_predictions_are_judged_as_they_stand(settings: Settings, rows: Path, tmp_path: Path):
    said = predictions(tmp_path, f"{GOLDS[0]};", f"{GOLDS[1]}; DROP TABLE head", f"{GOLDS[2]}\n\nThat sorts them.")
    subject = benchmark(settings, Candidates(predictions=said), rows)[0].subject
    assert [row.executed for row in subject.rows] == [True, False, False]
    assert "one statement" in subject.rows[1].error


def test_a_base_is_judged_with_both_prompts_and_has_to_be_beaten(
    settings: Settings, rows: Path, tiny_model: Path, tmp_path: Path, caplog
):
    settings = settings.model_copy(
        update={
            "evaluation": settings.evaluation.model_copy(update={"max_new_tokens": 4, "few_shot": 1}),
            "data": settings.data.model_copy(
                update={"split": "random", "train_ratio": 0.4, "val_ratio": 0.2, "test_ratio": 0.4}
            ),
        }
    )
    five = tmp_path / "five.jsonl"
    five.write_text(
        "".join(
            line.replace('": "q', f'": "{n} q') for n in range(2) for line in rows.read_text().splitlines(keepends=True)
        )
    )
    frozen = settings.model_copy(
        update={"data": settings.data.model_copy(update={"path": five, "subset_fraction": 1.0})}
    )
    said = predictions(tmp_path, "SELECT 1", "SELECT 1")
    evaluation, verdict = benchmark(frozen, Candidates(predictions=said, base=str(tiny_model)), None)
    assert [system.name for system in evaluation.systems] == ["model", "base", "base_few_shot"]
    assert {"beats_base", "beats_base_few_shot"} <= {rule.name for rule in verdict.rules}
    assert not caplog.text
    evaluation, _ = benchmark(
        settings, Candidates(predictions=predictions(tmp_path, *GOLDS), base=str(tiny_model)), rows
    )
    assert [system.name for system in evaluation.systems] == ["model", "base"]
    assert "no training rows to draw examples from" in caplog.text


def test_the_configured_revision_is_that_of_the_configured_model(settings: Settings, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "text2sql.evaluation.benchmark.local_model", lambda name, *_, **options: asked.setdefault(name, options)
    )
    model = settings.model.model_copy(update={"name": "owner/model", "revision": "abc", "chat_template": True})
    for name in ("owner/model", "owner/other"):
        _local(name, settings, model)
    assert [options["revision"] for options in asked.values()] == ["abc", None]
    assert all(options["chat_template"] for options in asked.values())


@pytest.mark.parametrize(
    ("name", "taken", "found"),
    [("mine", (), "mine"), ("mine", ("mine",), "mine 2"), ("tuned", (), "tuned 2"), ("base", ("base 2",), "base 3")],
)
def test_no_system_takes_the_name_of_another_or_of_a_role(name: str, taken: tuple[str, ...], found: str):
    assert _unused(name, dict.fromkeys(taken)) == found


def test_test_data_that_is_not_there(settings: Settings, tmp_path: Path):
    with pytest.raises(DataError, match="--test-data .*gone.jsonl: no such file"):
        benchmark(settings, Candidates(predictions=tmp_path / "a"), tmp_path / "gone.jsonl")
