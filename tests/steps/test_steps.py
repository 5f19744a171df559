"""Steps by themselves, outside a pipeline: convert, call, return; loud about what was set aside."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset

from tests.training_fixtures import tiny_settings

pytestmark = pytest.mark.usefixtures("zenml_client")


@pytest.fixture
def rows() -> Dataset:
    table = "CREATE TABLE ship (name TEXT, weight INTEGER)"
    answers = ["SELECT name FROM ship", "DELETE FROM ship", "SELECT colour FROM ship"]
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

    valid, rejected, report = validate.entrypoint(rows, tiny_settings(tiny_model, tmp_path))
    assert valid["row_id"][:] == [0]
    assert rejected["reason"][:] == ["not_read_only", "does_not_run"]
    assert report.figures == {"rows": 3, "valid": 1, "set_aside": 2}
    assert {entry["reason"]: entry["rows"] for entry in report.table} == {"not_read_only": 1, "does_not_run": 1}
    told = capsys.readouterr().err
    assert "2 of 3 rows are set aside" in told
    assert "not_read_only" in told


def test_markup_in_texts_stays_text(capsys: pytest.CaptureFixture[str]):
    from steps.console import announce, show_table

    announce("ingest", "rows from [bold]x[/bold]")
    show_table(("reason", "rows"), [("[red]a", 1200)])
    told = capsys.readouterr().err
    assert "[bold]x[/bold]" in told
    assert "[red]a" in told
    assert "1,200" in told
