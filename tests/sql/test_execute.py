from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.sql.cases import Hostile, read_hostile
from text2sql.errors import ExecutionError, ForbiddenFunctionError, QueryTimeoutError, SqlError, UnsafeSqlError
from text2sql.sql.database import build_database
from text2sql.sql.execute import MAX_VALUE_BYTES, MEMORY_BYTES, run_query, strict_quotes
from text2sql.sql.schema import parse_schema

SCHEMA, HOSTILE = read_hostile()
ENDS_ITS_PROCESS = "a long line of slow calls"
CAUGHT_BY_THE_PARSER = "CTEs that double"  # a few thousand rows, which SQLite would count in no time


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = build_database(parse_schema(SCHEMA))
    connection.executemany("INSERT INTO singer VALUES (?, ?, ?, ?)", [(str(i), f"n{i}", i, "F") for i in range(50)])
    yield connection
    connection.close()


@pytest.mark.parametrize(
    "case",
    [case for case in HOSTILE if case.title not in (ENDS_ITS_PROCESS, CAUGHT_BY_THE_PARSER)],
    ids=lambda case: case.title,
)
def test_hostile_text_changes_nothing(case: Hostile, tmp_path: Path, monkeypatch):
    """Straight to a file that may be written to, past the parser that would have stopped most of it."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "singers.db"
    with closing(sqlite3.connect(path)) as writer, writer:
        writer.execute(SCHEMA)
        writer.executemany("INSERT INTO singer VALUES (?, ?, ?, ?)", [(str(i), f"n{i}", i, "F") for i in range(50)])
    before = path.read_bytes()
    started = time.process_time()  # others may be at work on the machine
    with closing(sqlite3.connect(path, isolation_level=None)) as connection, pytest.raises(SqlError) as caught:
        run_query(connection, case.text, timeout=0.1)
    assert time.process_time() - started < 3
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 250
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT load_extension('x')", "function load_extension"),
        ("SELECT zeroblob(10)", "function zeroblob"),
        ("DELETE FROM singer", "asked for DELETE"),
        ("SELECT * FROM sqlite_master", "system table"),
        ("PRAGMA table_info(singer)", "PRAGMA"),
        ("EXPLAIN SELECT 1", "EXPLAIN"),
        (";EXPLAIN SELECT 1", "EXPLAIN"),
        (" ; /* x */ ;; EXPLAIN QUERY PLAN SELECT 1", "EXPLAIN"),
        ("\ufeffEXPLAIN SELECT 1", "EXPLAIN"),
        ("\ufeff;\ufeff-- x\nEXPLAIN SELECT 1", "EXPLAIN"),
    ],
)
def test_refusals_are_told_apart_from_errors(database: sqlite3.Connection, sql: str, words: str):
    with pytest.raises(UnsafeSqlError, match=words):
        run_query(database, sql, timeout=1)


def test_a_forbidden_function_is_told_apart_from_a_write(database: sqlite3.Connection):
    with pytest.raises(ForbiddenFunctionError):
        run_query(database, "SELECT randomblob(9) FROM singer", timeout=1)


def test_what_a_read_needs_is_allowed(database: sqlite3.Connection):
    sql = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3), unused AS (SELECT 1) "
        "SELECT UPPER(name), ROUND(AVG(age), 1), COUNT(*) OVER (), STRFTIME('%Y', '2020-01-01'), "
        "(SELECT COUNT(*) FROM n), (SELECT COUNT(*) FROM unused) "
        "FROM singer WHERE name LIKE 'n%' AND IFNULL(country, '') GLOB 'F*' GROUP BY name ORDER BY 1 LIMIT 1"
    )
    assert run_query(database, sql, timeout=1).rows == [("N0", 0.0, 50, "2020", 3, 1)]


def test_deadline(database: sqlite3.Connection):
    sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT SUM(i) FROM n"
    started = time.perf_counter()
    with pytest.raises(QueryTimeoutError, match=r"ran longer than 0\.2 s"):
        run_query(database, sql, timeout=0.2)
    assert 0.1 < time.perf_counter() - started < 2


def test_endless_rows_end_at_the_cap(database: sqlite3.Connection):
    sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    result = run_query(database, sql, timeout=5, max_rows=100)
    assert (len(result.rows), result.truncated) == (100, True)
    assert not run_query(database, "SELECT * FROM singer", timeout=5, max_rows=50).truncated


def test_large_cells_end_at_the_cap(database: sqlite3.Connection):
    wide = f"replace(replace('{'a' * 200}', 'a', '{'b' * 100}'), 'c', 'd')"
    result = run_query(database, f"SELECT {wide} FROM singer a, singer b, singer c", timeout=5)
    assert result.truncated
    assert sum(len(row[0]) for row in result.rows) < 20_000_000


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT trim(replace('{'b' * 400}', 'b', '{'b' * 124}'), replace('{'a' * 30}', 'a', '{'a' * 124}'))",
        f"SELECT instr(replace('{'a' * 400}', 'a', '{'a' * 124}'), replace('{'a' * 200}', 'a', '{'a' * 124}') || 'b')",
        f"SELECT replace('{'a' * 400}', 'a', '{'a' * 124}') LIKE '{'%a' * 120}b'",
    ],
    ids=["trim", "instr", "like"],
)
def test_one_call_that_no_deadline_interrupts_stays_short(database: sqlite3.Connection, sql: str):
    started = time.perf_counter()
    assert len(run_query(database, sql, timeout=30).rows) == 1
    assert time.perf_counter() - started < 20


def test_slow_calls_in_a_loop_end_soon_after_the_deadline(database: sqlite3.Connection):
    """A thousand steps of half a second each would be minutes."""
    slow = f"trim(replace('{'b' * 400}', 'b', '{'b' * 124}') || i, replace('{'a' * 40}', 'a', '{'a' * 100}') || 'b')"
    sql = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT SUM(LENGTH({slow})) FROM n"
    started = time.perf_counter()
    with pytest.raises(QueryTimeoutError):
        run_query(database, sql, timeout=0.1)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("columns", [1, 2, 10, 1_900])
@pytest.mark.parametrize("count", [0, 1, 2, 159, 160, 161, 255, 256, 257, 700])
def test_rows_come_whole_and_in_order_whatever_their_number(columns: int, count: int):
    n = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000)"
    with closing(build_database(parse_schema(SCHEMA))) as database:
        sql = f"{n} SELECT {', '.join(['i'] * columns)} FROM n LIMIT {count}"
        whole = run_query(database, sql, 9)
        assert whole.rows == [(i,) * columns for i in range(1, count + 1)]
        assert not whole.truncated
        for most in (count - 1, count):
            if most > 0:
                part = run_query(database, sql, 9, max_rows=most)
                assert (part.rows, part.truncated) == (whole.rows[:most], most < count)


def test_one_wide_row_after_another_ends_at_the_cap(database: sqlite3.Connection):
    wide = (
        f"SELECT {', '.join(['x'] * 1_900)} FROM (SELECT replace('{'a' * 400}', 'a', '{'b' * 120}') AS x FROM singer)"
    )
    assert run_query(database, wide, timeout=9).truncated


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT {text} || i AS x FROM n ORDER BY x",
        "WITH RECURSIVE n(i, x) AS (SELECT 1, '' UNION SELECT i + 1, {text} || i FROM n) SELECT COUNT(*) FROM n",
        "WITH c0 AS (SELECT age AS x FROM singer), {doubled} SELECT x FROM c29",
    ],
    ids=["to sort", "to tell apart", "to prepare"],
)
def test_memory_is_bounded(database: sqlite3.Connection, sql: str):
    text = f"replace('{'a' * 400}', 'a', '{'b' * 120}')"
    doubled = ", ".join(f"c{i} AS (SELECT x + x AS x FROM c{i - 1})" for i in range(1, 30))
    with pytest.raises(ExecutionError, match=f"needs more than {MEMORY_BYTES >> 20} MiB of memory"):
        run_query(database, sql.format(text=text, doubled=doubled), timeout=60)
    assert run_query(database, "SELECT COUNT(*) FROM singer", timeout=1).rows == [(50,)]


def test_what_sorts_stays_in_memory(database: sqlite3.Connection):
    """A worker may write no files, and a query may not fill the disk with temporary ones."""
    sql = "SELECT a.name FROM singer a, singer b, singer c WHERE c.age < 20 ORDER BY a.name || b.name DESC"
    assert run_query(database, sql, timeout=20).truncated
    assert database.execute("PRAGMA temp_store").fetchone() == (2,)


def test_long_values_are_refused(database: sqlite3.Connection):
    with pytest.raises(ExecutionError, match="too big"):
        run_query(database, f"SELECT replace('{'a' * 1000}', 'a', '{'b' * (MAX_VALUE_BYTES // 900)}')", timeout=1)


@pytest.mark.parametrize(
    "sql", ["SELECT '\ud800'", "SELECT 1\0", "", "   ", "--", "SELECT ?", "SELECT " + "x" * 60_000]
)
def test_text_that_is_no_query(database: sqlite3.Connection, sql: str):
    with pytest.raises(ExecutionError):
        run_query(database, sql, timeout=1)


def test_the_connection_can_be_written_to_afterwards(database: sqlite3.Connection):
    run_query(database, "SELECT 1", timeout=1)
    database.execute("INSERT INTO singer VALUES ('x', 'y', 1, 'z')")
    assert run_query(database, "SELECT COUNT(*) FROM singer", timeout=1).rows == [(51,)]


def test_double_quoted_strings_only_where_forgiven():
    schema = parse_schema(SCHEMA)
    sql = 'SELECT name FROM singer WHERE country = "France"'
    strict, forgiving = build_database(schema), build_database(schema, forgiving=True)
    assert run_query(forgiving, sql, timeout=1).rows == []
    with pytest.raises(ExecutionError, match="no such column: France"):
        run_query(strict, sql, timeout=1)
    assert run_query(strict, 'SELECT "name" FROM "singer"', timeout=1).rows == []
    strict.close()
    forgiving.close()


@pytest.mark.parametrize(
    ("sql", "strict"),
    [
        ('SELECT "a" FROM "t"', "SELECT `a` FROM `t`"),
        ("SELECT '\"a\"'", "SELECT '\"a\"'"),
        ("SELECT 'it''s \"a\"', \"b\"", "SELECT 'it''s \"a\"', `b`"),
        ('SELECT 1 -- "a"', 'SELECT 1 -- "a"'),
        ('SELECT /* "a" */ "b"', 'SELECT /* "a" */ `b`'),
        ('SELECT "a""b", "c`d"', 'SELECT `a"b`, `c``d`'),
    ],
)
def test_strict_quotes(sql: str, strict: str):
    assert strict_quotes(sql) == strict
