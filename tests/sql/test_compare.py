from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing

import pytest

from text2sql.sql.compare import same_result
from text2sql.sql.execute import Result, run_query
from text2sql.sql.parse import parse
from text2sql.sql.ties import read_ties


def result(*rows: tuple[object, ...], truncated: bool = False) -> Result:
    return Result(tuple(f"c{i}" for i in range(len(rows[0]) if rows else 1)), list(rows), truncated)


@pytest.mark.parametrize(
    ("gold", "predicted", "ordered", "same"),
    [
        (result((1,), (2,)), result((2,), (1,)), False, True),
        (result((1,), (2,)), result((2,), (1,)), True, False),
        (result((1,), (1,), (2,)), result((1,), (2,), (2,)), False, False),
        (result((1,), (1,)), result((1,)), False, False),
        (result((1, "a"), (2, "b")), result(("a", 1), ("b", 2)), False, True),
        (result((1, "a"), (2, "b")), result(("b", 1), ("a", 2)), False, False),
        (result((1, 2), (2, 1)), result((2, 1), (1, 2)), True, True),  # by exchanging the columns
        (result((1, 1, 2), (1, 2, 1)), result((2, 1, 1), (1, 1, 2)), True, True),
        (result((1,)), result((1, 1)), False, False),
        (result((1,)), result((1.0,)), False, True),
        (result((0.1 + 0.2,)), result((0.3,)), False, True),
        (result((1e9,)), result((1e9 + 1,)), False, False),
        (result((1e9 + 0.5,)), result((1e9 + 0.75,)), False, True),
        (result((1e9,)), result((1e9 + 0.5,)), False, True),
        (result((1_000_001,), (1_000_002,)), result((1_000_001,), (1_000_003,)), False, False),
        (result((0.1, 10**6), (0.1 + 1e-12, 10**6 + 1)), result((0.1, 10**6 + 1), (0.1 + 1e-12, 10**6)), False, True),
        (result((1.0,)), result((1.00001,)), False, False),
        (result((1 / 3, "a"), (1 / 3, "b")), result((0.33333333333, "b"), (0.3333333334, "a")), False, True),
        (result((0.5,), (0.25,)), result((0.2500000001,), (0.5000000001,)), False, True),
        (result((5,)), result(("5",)), False, False),
        (result((None,)), result((None,)), False, True),
        (result((None,)), result((0,)), False, False),
        (result((None,)), result(("",)), False, False),
        (result((b"a",)), result(("a",)), False, False),
        (result(), result(), False, True),
        (result((1,), truncated=True), result((1,), truncated=True), False, False),
        (result((2**60,)), result((2**60 + 1,)), False, False),
    ],
)  # fmt: skip
def test_same_result(gold: Result, predicted: Result, ordered: bool, same: bool):
    assert same_result(gold, predicted, ordered) is same
    assert same_result(predicted, gold, ordered) is same


@pytest.mark.parametrize(
    ("gold", "predicted", "ordered", "same"),
    [
        (result((1,), (2,)), result((2,), (1,), (1,)), False, True),
        (result((1,), (2,)), result((2,), (1,), (1,)), True, False),
        (result((1,), (2,)), result((1,), (1,), (2,), (1,)), True, True),
        (result((1,), (2,)), result((1,), (1,)), False, False),
        (result((1, "a"), (2, "b")), result(("a", 1), ("b", 2), ("a", 1)), False, True),
        (result((1,)), result((1.0,), (1,)), False, True),
        (result(), result(), False, True),
        (result(), result((1,)), False, False),
    ],
)
def test_repeated_rows_of_a_distinct_gold(gold: Result, predicted: Result, ordered: bool, same: bool):
    assert same_result(gold, predicted, ordered, distinct=True) is same


def test_column_count_matters_without_rows():
    assert not same_result(Result(("a",), []), Result(("a", "b"), []), ordered=False)


def test_many_alike_columns_are_decided_quickly():
    rng = random.Random(0)
    rows = [tuple(rng.randint(0, 1) for _ in range(14)) for _ in range(40)]
    turned = [row[::-1] for row in rng.sample(rows, len(rows))]
    started = time.perf_counter()
    same_result(result(*rows), result(*turned), ordered=False)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("sql", "ends", "cut"),
    [
        ("SELECT a FROM t ORDER BY b", (1, 3, 4), False),
        ("SELECT a AS x FROM t ORDER BY a % 2", (2, 4), False),
        ("SELECT a FROM t ORDER BY b LIMIT 2", (), True),
        ("SELECT a FROM t ORDER BY b LIMIT 2 OFFSET 1", (2,), False),
        ("SELECT a FROM t ORDER BY b LIMIT 1 OFFSET 2", (), True),
        ("SELECT a FROM t ORDER BY a", (), False),
        ("SELECT DISTINCT a % 2 FROM t ORDER BY b", (), False),
        ("SELECT DISTINCT a % 2 AS x, b FROM t ORDER BY x", (2, 4), False),
        ("SELECT a FROM t", (), False),
    ],
)
def test_runs_of_rows_that_tie(sql: str, ends: tuple[int, ...], cut: bool):
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript("CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 5), (2, 6), (3, 6), (4, 7)")
        assert read_ties(connection, parse(sql), run_query(connection, sql, 2.0), 2.0) == (ends, cut)
