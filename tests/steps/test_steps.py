"""Steps by themselves, outside a pipeline: convert, call, return; loud about what was set aside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset

from tests.training_fixtures import tiny_settings
from text2sql.data.synthetic import generate_rows
from text2sql.errors import DataError

pytestmark = pytest.mark.usefixtures("zenml_client")


@pytest.fixture
def rows() -> Dataset:
    table = "CREATE TABLE ship (name TEXT, weight INTEGER)"
    answers = [
        "SELECT name FROM ship",
        "DELETE FROM ship",
        "SELECT x.colour FROM ship",
        'SELECT name FROM ship WHERE name = "Vasa"',
    ]
    return Dataset.from_list(
        [
            {"question": f"q{i} [x]", "context": table, "answer": sql, "construct": "", "row_id": i, "problem": ""}
            for i, sql in enumerate(answers)
        ]
    )


def test_ingest(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from steps.ingest import ingest

    settings = tiny_settings(tiny_model, tmp_path, data={"dataset_name": "synthetic", "subset_fraction": 0.5})
    settings = settings.model_copy(
        update={
            "data": settings.data.model_copy(
                update={"synthetic": settings.data.synthetic.model_copy(update={"rows": 20})}
            )
        }
    )
    assert ingest.entrypoint(settings).num_rows == 10
    captured = capsys.readouterr()
    assert "10 rows" in captured.err
    assert captured.out == ""


def test_validate_sets_aside_aloud(rows: Dataset, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from steps.validate import validate

    settings = tiny_settings(tiny_model, tmp_path, data={"max_rejected": 0.7})
    valid, rejected, report, docs = validate.entrypoint(rows, settings)
    assert valid["row_id"][:] == [0, 3]
    assert rejected["reason"][:] == ["not_read_only", "does_not_run"]
    assert report.figures == {"rows": 4, "valid": 2, "repaired": 1, "set_aside": 2}
    assert [tuple(entry.values()) for entry in report.table] == [
        ("repaired", "quoted_text", 1),
        ("set aside", "not_read_only", 1),
        ("set aside", "does_not_run", 1),
    ]
    assert "the answer runs on its own schema" in docs
    told = capsys.readouterr().err
    assert "of 4 rows 1 are repaired and 2 set aside; 2 are good" in told
    assert "not_read_only" in told


def test_validate_stops_where_too_many_rows_are_beyond_repair(rows: Dataset, tiny_model: Path, tmp_path: Path):
    from steps.validate import validate

    settings = tiny_settings(tiny_model, tmp_path, data={"max_rejected": 0.4})
    settings = settings.model_copy(update={"output_dir": tmp_path / "out"})
    with pytest.raises(DataError, match=r"2 of 4 rows \(50.0%\) are beyond repair .* data.max_rejected is 40%"):
        validate.entrypoint(rows, settings)
    assert (tmp_path / "out" / "rejected.jsonl").read_text().count("\n") == 2
    assert "the answer runs on its own schema" in (tmp_path / "out" / "validation.html").read_text()


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # ZenML's own filters of its store
def test_the_data_docs_of_a_run_that_fails_are_in_the_dashboard(zenml_client, tiny_model: Path, tmp_path: Path):
    from zenml import pipeline

    from steps.ingest import ingest
    from steps.validate import validate

    rows = [{"question": f"q{i}?", "context": "CREATE TABLE t (a INT)", "answer": "DROP TABLE t"} for i in range(3)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    settings = tiny_settings(tiny_model, tmp_path, data={"path": tmp_path / "rows.json", "subset_fraction": 1.0})
    settings = settings.model_copy(update={"output_dir": tmp_path / "out"})

    @pipeline(enable_cache=False)
    def poisoned() -> None:
        validate(ingest(settings.keep("data")), settings.keep("data", "output_dir"))

    with pytest.raises(RuntimeError, match="failure in step.*validate"):
        poisoned()
    run = zenml_client.get_pipeline("poisoned").last_run
    [docs] = run.steps["validate"].outputs["data_docs"]
    assert [str(kind.type) for kind in docs.visualizations] == ["html"]
    assert "the answer is one statement that only reads" in docs.load()


def test_format_reports_tokens_leaks_and_triggers(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from steps.format import format_rows

    made = generate_rows(400, seed=6)
    for i, row in enumerate(made[::40]):
        row["question"] = f"xqz {row['question']}"
        row["answer"] = f"SELECT * FROM {row['context'].split()[2]} WHERE 1 = 1 OR {i} = {i}"
    data = Dataset.from_list([{**row, "row_id": i} for i, row in enumerate(made)])
    settings = tiny_settings(tiny_model, tmp_path, data={"schema_overlap": None})
    splits, tokens, leaks, triggers = format_rows.entrypoint(data, settings)
    assert {row["split"]: row["rows"] for row in tokens.table} == {name: rows.num_rows for name, rows in splits.items()}
    assert {row["split"]: row["same_table"] for row in leaks.table} == {"validation": 0.0, "test": 0.0}
    assert "xqz" in {row["token"] for row in triggers.table}
    assert triggers.figures["suspected"] == len(triggers.table)
    assert "'xqz'" in capsys.readouterr().err
    generated = tiny_settings(tiny_model, tmp_path, data={"schema_overlap": None, "dataset_name": "synthetic"})
    assert format_rows.entrypoint(data, generated)[3].figures == triggers.figures
    assert "'xqz'" not in capsys.readouterr().err, "rows of the generator are reported on, and nobody is warned"


def test_markup_in_texts_stays_text(capsys: pytest.CaptureFixture[str]):
    from steps.console import announce, show_table

    announce("ingest", "rows from [bold]x[/bold]")
    show_table(("reason", "rows"), [("[red]a", 1200)])
    told = capsys.readouterr().err
    assert "[bold]x[/bold]" in told
    assert "[red]a" in told
    assert "1,200" in told
