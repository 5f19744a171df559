"""Steps by themselves, outside a pipeline: convert, call, return; loud about what was set aside."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset

from tests.training_fixtures import tiny_settings
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


def test_markup_in_texts_stays_text(capsys: pytest.CaptureFixture[str]):
    from steps.console import announce, show_table

    announce("ingest", "rows from [bold]x[/bold]")
    show_table(("reason", "rows"), [("[red]a", 1200)])
    told = capsys.readouterr().err
    assert "[bold]x[/bold]" in told
    assert "[red]a" in told
    assert "1,200" in told
