"""Rows that name a database of their own are checked on it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from datasets import Dataset

from text2sql.config import DataSection
from text2sql.data.check import check_rows

CONTEXT = "CREATE TABLE head (name VARCHAR, age INTEGER)"
GOLD = "SELECT name FROM head WHERE age > 56"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, columns in {"good.sqlite": "name TEXT, age INTEGER", "bare.sqlite": "name TEXT"}.items():
        with closing(sqlite3.connect(tmp_path / name)) as writer, writer:
            writer.execute(f"CREATE TABLE head ({columns})")
    (tmp_path / "suite").mkdir()
    (tmp_path / "empty").mkdir()
    for number in range(2):
        (tmp_path / "suite" / f"{number}.sqlite").write_bytes((tmp_path / "good.sqlite").read_bytes())
    (tmp_path / "text.sqlite").write_text("no database")
    return tmp_path


def check(folder: Path, database: str, accepted: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    row = {"question": "Who?", "context": CONTEXT, "answer": GOLD, "row_id": 0, "__problem__": ""}
    rows = Dataset.from_list([row | {"database": database, "accepted": list(accepted)}])
    rejected = check_rows(rows, DataSection(databases=folder)).rejected
    return list(zip(rejected["reason"], rejected["detail"], strict=True))


@pytest.mark.parametrize("database", ["", "good.sqlite", "suite"])
def test_good_rows(folder: Path, database: str):
    assert check(folder, database, ("SELECT name FROM head WHERE age >= 57",)) == []


@pytest.mark.parametrize(
    ("database", "why"),
    [
        ("bare.sqlite", "bare.sqlite: no such column: age"),
        ("gone.sqlite", "does not exist; check the path"),
        ("text.sqlite", "is no SQLite 3 file"),
        ("empty", "is a folder without any *.sqlite"),
        ("../good.sqlite", "is not in"),
    ],
)
def test_rows_that_their_database_contradicts(folder: Path, database: str, why: str):
    [(reason, detail)] = check(folder, database)
    assert reason == "database_disagrees"
    assert why in detail


@pytest.mark.parametrize(
    ("accepted", "reason"),
    [
        ("SELECT nobody FROM head", "does_not_run"),
        ("DELETE FROM head", "not_read_only"),
        ("SELECT FROM WHERE", "answer_unparsable"),
    ],
)
def test_every_accepted_query_is_checked(folder: Path, accepted: str, reason: str):
    [(found, detail)] = check(folder, "good.sqlite", (GOLD, accepted))
    assert found == reason
    assert detail.startswith("accepted query 2: ")
