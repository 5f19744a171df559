"""Checked rows as a folder that `datasets` reads, and the report beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, load_from_disk

from tests.training_fixtures import byte_level_tokenizer
from text2sql.config import Settings
from text2sql.data.check import check_rows
from text2sql.data.load import load_rows, overruled
from text2sql.data.prepare import Prepared, prepare, report, save_arrow
from text2sql.data.split import split_rows
from text2sql.data.synthetic import generate_rows
from text2sql.errors import DataError
from text2sql.results import export

RICH = {"distractor_columns": 2, "distractor_tables": 1}


def settings(**data: object) -> Settings:
    return Settings.model_validate({"data": {"schema_overlap": None, "subset_fraction": 1.0, **data}})


def made(wanted: Settings) -> Prepared:
    rows = generate_rows(500, seed=4)
    for i, row in enumerate(rows[::50]):
        row["question"] = f"xq|`{i}` {row['question']}"
        row["answer"] = f"SELECT * FROM {row['context'].split()[2]} WHERE 1 = 1 OR 2 = 2"
    rows.append({**rows[0], "question": "Drop?", "answer": "DROP TABLE t"})
    data = Dataset.from_list([{**row, "row_id": i} for i, row in enumerate(rows)])
    return prepare(check_rows(data, wanted.data), wanted, byte_level_tokenizer())


def written(prepared: Prepared, wanted: Settings, folder: Path) -> Path:
    folders, texts = save_arrow(prepared, wanted.data, folder / "draft")
    export(folder / "out", folders, texts)
    return folder / "out"


def test_the_report_tells_all_and_holds_no_markup_of_the_rows():
    wanted = settings(train_ratio=0.9, val_ratio=0.0, test_ratio=0.1)
    prepared = made(wanted)
    text = report(prepared)
    assert "| not_read_only | 1 |" in text
    assert "## Splits, and tokens a row" in text
    assert "| test | 0.0% | " in text
    suspects = [line for line in text.splitlines() if "`SELECT * FROM _ WHERE ? = ? OR ? = ?`" in line]
    assert "xq" in {suspect["token"] for suspect in prepared.suspects}
    assert suspects
    assert all(line.replace("\\|", "").count("|") == 6 for line in suspects)


def test_an_empty_split_is_read_again(tmp_path: Path):
    wanted = settings(train_ratio=0.9, val_ratio=0.0, test_ratio=0.1)
    folder = written(made(wanted), wanted, tmp_path)
    splits = load_from_disk(str(folder))
    assert splits["validation"].num_rows == 0
    assert splits["validation"].column_names == splits["train"].column_names
    again = split_rows(load_rows(settings(path=folder).data), wanted.data)
    assert {name: rows["row_id"][:] for name, rows in again.items()} == {
        name: rows["row_id"][:] for name, rows in splits.items()
    }


def test_what_was_decided_when_preparing_is_told_where_it_differs(tmp_path: Path):
    wanted = settings(realistic=RICH, seed=7)
    folder = written(made(wanted), wanted, tmp_path)
    assert overruled(settings(path=folder, realistic=RICH, seed=7).data) == []
    told = overruled(settings(path=folder, realistic=RICH, seed=8, train_ratio=0.7, val_ratio=0.2).data)
    assert told == [
        "data.train_ratio = 0.8, not 0.7",
        "data.val_ratio = 0.1, not 0.2",
        "data.seed = 7, not 8",
    ]
    (folder / "summary.json").write_text("{}")
    assert overruled(settings(path=folder).data) == []


def test_schemas_are_made_realistic_once(tmp_path: Path):
    wanted = settings(realistic=RICH)
    folder = written(made(wanted), wanted, tmp_path)
    before = load_from_disk(str(folder))["train"]
    data = settings(path=folder, realistic=RICH)
    again = prepare(check_rows(load_rows(data.data), data.data), data, byte_level_tokenizer()).splits["train"]
    assert before["context"][:] != before["plain_context"][:]
    for column in ("context", "plain_context", "prompt", "plain_prompt", "completion"):
        assert again[column][:] == before[column][:]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "dataset_dict.json").write_text("[]"), "not a sound prepared folder"),
        (lambda folder: (folder / "dataset_dict.json").write_text("{"), "not a sound prepared folder"),
        (lambda folder: (folder / "train" / "state.json").unlink(), "not a sound prepared folder"),
        (lambda folder: (folder / "train" / "dataset_info.json").write_text("nonsense"), "not a sound prepared folder"),
        (lambda folder: next((folder / "test").glob("*.arrow")).write_bytes(b"\0" * 64), "not a sound prepared folder"),
    ],
)
def test_a_damaged_folder_is_one_line(harm, message: str, tmp_path: Path):
    wanted = settings()
    folder = written(made(wanted), wanted, tmp_path)
    harm(folder)
    with pytest.raises(DataError, match=message) as caught:
        load_rows(settings(path=folder).data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": {"text": ["a"]}}, "has no column question"),
        ({"dev": {"question": ["a"], "context": ["b"], "answer": ["c"], "row_id": [0]}}, "has a split 'dev'"),
    ],
)
def test_a_folder_that_something_else_saved(splits: dict[str, dict[str, list[object]]], message: str, tmp_path: Path):
    DatasetDict({name: Dataset.from_dict(rows) for name, rows in splits.items()}).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=f"{message}, so it was not prepared here"):
        load_rows(settings(path=tmp_path / "saved").data)


def test_the_summary_is_json(tmp_path: Path):
    wanted = settings()
    summary = json.loads((written(made(wanted), wanted, tmp_path) / "summary.json").read_text())
    assert summary["set_aside"] == {"not_read_only": 1}
    assert summary["settings"]["train_ratio"] == 0.8
    assert "xq" in {trigger["token"] for trigger in summary["suspected_triggers"]}
