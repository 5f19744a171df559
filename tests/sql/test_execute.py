from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sql.cases import Case, read_cases
from text2sql.errors import ExecutionError, ForbiddenFunctionError, QueryTimeoutError, SqlError, UnsafeSqlError
from text2sql.sql.database import build_database
from text2sql.sql.execute import MAX_VALUE_BYTES, run_query, strict_quotes
from text2sql.sql.schema import parse_schema

SCHEMA, HOSTILE = read_cases("hostile")


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = build_database(parse_schema(SCHEMA))
    connection.executemany("INSERT INTO singer VALUES (?, ?, ?, ?)", [(str(i), f"n{i}", i, "F") for i in range(50)])
    yield connection
    connection.close()


def dump(connection: sqlite3.Connection) -> str:
    return hashlib.sha256("\n".join(connection.iterdump()).encode()).hexdigest()


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.title)
def test_hostile_text_changes_nothing(case: Case, database: sqlite3.Connection, tmp_path: Path, monkeypatch):
    """Straight to the database, past the parser that would have stopped most of it."""
    monkeypatch.chdir(tmp_path)
    before = dump(database)
    started = time.perf_counter()
    with pytest.raises(SqlError) as caught:
        run_query(database, case.body, timeout=0.3)
    assert time.perf_counter() - started < 3
    assert "\n" not in str(caught.value)
    assert dump(database) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.title)
def test_hostile_text_leaves_a_database_file_as_it_was(case: Case, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "singers.db"
    with sqlite3.connect(path) as writer:
        writer.execute(SCHEMA)
        writer.execute("INSERT INTO singer VALUES ('1', 'Joe', 30, 'France')")
    writer.close()
    before = path.read_bytes()
    connection = sqlite3.connect(path, isolation_level=None)
    if case.title == "a huge cross join":  # over a single row it is a small one
        run_query(connection, case.body, timeout=0.3)
    else:
        with pytest.raises(SqlError):
            run_query(connection, case.body, timeout=0.3)
    connection.close()
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
