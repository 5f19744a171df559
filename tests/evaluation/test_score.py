from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from text2sql.config import EvaluationSection
from text2sql.errors import ExecutionError
from text2sql.evaluation.cases import ATTEMPTS
from text2sql.evaluation.score import _seconds, judge_item, score_systems
from text2sql.evaluation.suite import judge_row
from text2sql.evaluation.types import Difference, ResultSample, RowScore

CONTEXT = "CREATE TABLE head (name VARCHAR, age INTEGER)"
GOLDS = [
    "SELECT name FROM head WHERE age > 30",
    "SELECT COUNT(*) FROM head",
    "SELECT name FROM head ORDER BY age",
    "SELECT name FROM head WHERE age > 30 AND age < 20",
]
ROWS = Dataset.from_dict({"context": [CONTEXT] * 4, "answer": GOLDS})
FAST = EvaluationSection(query_timeout=0.2)


def score(predictions: list[str], rows: Dataset = ROWS) -> list[RowScore]:
    return score_systems(rows, {"": predictions}, FAST)[""]


def test_verdicts_say_what_is_right_and_what_is_wrong():
    predictions = [
        "select NAME from head where 30 < age",  # exact
        "SELECT SUM(1) FROM head",  # executed
        "SELECT name FROM head ORDER BY age DESC",  # valid
        "SELECT nme FROM head",  # not valid, and the row is vacuous
    ]
    rows = score(predictions)
    assert [row.exact for row in rows] == [True, False, False, False]
    assert [row.executed for row in rows] == [True, True, False, False]
    assert [row.valid for row in rows] == [True, True, True, False]
    assert [row.adheres for row in rows] == [True, True, True, False]
    assert [row.vacuous for row in rows] == [False, False, False, True]
    assert [row.fault for row in rows] == [None, None, "wrong_order", "invented_column"]
    assert rows[3].error == "no such column: nme"
    assert rows[2].difference is not None


def test_values_alone_may_differ():
    [row] = score(["SELECT name FROM head WHERE age > 31"], ROWS.select([0]))
    assert (row.exact, row.exact_without_values, row.executed) == (False, True, False)
    assert row.fault == "wrong_literal"


def test_the_golds_are_right():
    rows = score(GOLDS)
    assert all(row.exact and row.exact_without_values and row.executed and row.valid and row.adheres for row in rows)
    assert [row.vacuous for row in rows] == [False, False, False, True]


def write_heads(path: Path, *ages: int) -> None:
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path)) as writer, writer:
        writer.execute("CREATE TABLE head (name TEXT, age INTEGER)")
        writer.executemany("INSERT INTO head VALUES (?, ?)", [(chr(97 + i), age) for i, age in enumerate(ages)])


def test_a_row_may_have_a_database_and_more_golds(tmp_path: Path):
    write_heads(tmp_path / "heads.sqlite", 30, 31, 60)
    more = {"database": ["", "heads.sqlite", "", ""]}
    more["accepted"] = [[], [], ["SELECT name FROM head ORDER BY name"], None]
    rows = Dataset.from_dict({"context": [CONTEXT] * 4, "answer": GOLDS, **more})
    predictions = [GOLDS[0], "SELECT 2", "SELECT name FROM head ORDER BY name", GOLDS[3]]
    scores = score_systems(rows, {"": predictions}, FAST, tmp_path)[""]
    assert [row.executed for row in scores] == [True, False, True, True]
    assert scores[1].difference == Difference(
        "heads.sqlite", ResultSample(("COUNT(*)",), ((3,),), 1), ResultSample(("2",), ((2,),), 1)
    )


def test_a_row_may_name_a_folder_of_databases(tmp_path: Path):
    write_heads(tmp_path / "heads" / "1.sqlite", 30, 60)
    write_heads(tmp_path / "heads" / "2.sqlite", 30, 56, 60)
    columns = {"context": [CONTEXT], "answer": [GOLDS[1]], "database": ["heads"]}
    wrong = "SELECT COUNT(*) FROM head WHERE age <> 56"
    [right], [one] = score_systems(Dataset.from_dict(columns), {"a": [GOLDS[1]], "b": [wrong]}, FAST, tmp_path).values()
    assert (right.executed, one.executed, right.vacuous) == (True, False, False)
    assert one.difference.database == "2.sqlite"


def test_a_row_cannot_name_a_file_elsewhere(tmp_path: Path):
    write_heads(tmp_path / "other.sqlite", 30)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "link.sqlite").symlink_to(tmp_path / "other.sqlite")
    for name in ("../other.sqlite", str(tmp_path / "other.sqlite"), "link.sqlite"):
        rows = Dataset.from_dict({"context": [CONTEXT], "answer": [GOLDS[1]], "database": [name]})
        with pytest.raises(ExecutionError, match="is not in .*mine; name a file below data.databases"):
            score_systems(rows, {"": [GOLDS[1]]}, FAST, tmp_path / "mine")


@pytest.mark.parametrize("processes", [1, 3])
def test_verdicts_do_not_hang_on_the_number_of_processes(processes: int, monkeypatch):
    golds = GOLDS * 10
    rows = Dataset.from_dict({"context": [CONTEXT] * len(golds), "answer": golds})
    said = [*GOLDS[1:], GOLDS[0]] * 10
    expected = [judge_row(CONTEXT, gold, [text], 5, 0.2)[0] for gold, text in zip(GOLDS, said[:4], strict=True)] * 10
    monkeypatch.setattr("text2sql.sql.workers.process_count", lambda: processes)
    assert [replace(row, fault=None) for row in score(said, rows)] == expected


def test_systems_are_scored_apart():
    scores = score_systems(ROWS, {"base": ["?"] * 4, "tuned": GOLDS}, FAST)
    assert not any(row.executed or row.valid for row in scores["base"])
    assert scores["tuned"] == score(GOLDS)


def judge_or_die(item: dict[str, Any]) -> list[dict[str, Any]]:
    """In a worker: what a query does that gets past every limit."""
    if "SELECT 'bomb'" in item["predictions"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return judge_item(item)


def test_an_answer_that_kills_the_judge_costs_no_other_system_its_row(monkeypatch):
    monkeypatch.setattr("text2sql.evaluation.score._JUDGE", f"{__name__}:judge_or_die")
    base = [GOLDS[0], "SELECT 'bomb'", "SELECT 'bomb'", GOLDS[3]]
    scores = score_systems(ROWS, {"base": base, "tuned": GOLDS}, FAST)
    assert [row.executed for row in scores["tuned"]] == [True] * 4
    assert [row.executed for row in scores["base"]] == [True, False, False, True]
    assert scores["base"][1].error == "judging failed: the worker process died"


def judge_or_die_of_the_gold(item: dict[str, Any]) -> list[dict[str, Any]]:
    """In a worker: a gold that gets past every limit."""
    if item["gold"] == GOLDS[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return judge_item(item)


def test_a_gold_that_kills_the_judge_makes_its_row_vacuous(monkeypatch):
    monkeypatch.setattr("text2sql.evaluation.score._JUDGE", f"{__name__}:judge_or_die_of_the_gold")
    scores = score_systems(ROWS, {"base": ["?"] * 4, "tuned": GOLDS}, FAST)
    assert [row.executed for row in scores["tuned"]] == [True, False, True, True]
    for row in (scores["base"][1], scores["tuned"][1]):
        assert row.vacuous
        assert row.error == "gold not judged: it ends the process that runs it"


def test_the_time_of_a_row_grows_with_its_databases():
    few = {"databases": 2, "timeout": 3.0, "predictions": ["a", "b"], "accepted": []}
    more = 3.0 * 2 * (3 * ATTEMPTS + 3 + 2)
    assert _seconds([few, {**few, "databases": 4}]) - _seconds([few]) == more
    assert _seconds([{**few, "accepted": ["c"]}]) - _seconds([few]) == more


def test_a_prediction_too_few():
    with pytest.raises(ValueError, match="3 predictions for 4 rows"):
        score(GOLDS[:3])


def test_no_rows():
    assert score([], ROWS.select([])) == []


def test_a_prediction_that_would_hang_while_it_is_prepared_is_refused():
    """No deadline reaches SQLite while it expands a query: each CTE doubles the one before."""
    ctes = ", ".join(f"c{i} AS (SELECT * FROM c{i - 1} UNION ALL SELECT * FROM c{i - 1})" for i in range(1, 40))
    bomb = f"WITH c0 AS (SELECT 1 AS x), {ctes} SELECT COUNT(*) FROM c39"
    started = time.perf_counter()
    rows = score([GOLDS[0], bomb, GOLDS[2], bomb])
    assert time.perf_counter() - started < 20
    assert [row.executed for row in rows] == [True, False, True, False]
    assert rows[1].error == "CTE c9 expands to more than 1000 queries"


def test_four_hundred_rows_take_a_few_seconds():
    golds = [f"SELECT name FROM head WHERE age > {i}" for i in range(400)]
    rows = Dataset.from_dict({"context": [CONTEXT] * 400, "answer": golds})
    started = time.perf_counter()
    assert all(row.executed for row in score(golds, rows))
    assert time.perf_counter() - started < 30
