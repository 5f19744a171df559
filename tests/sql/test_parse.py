from __future__ import annotations

import time

import pytest

from tests.sql.cases import Case, read_cases
from text2sql.errors import ParseError, SqlError, UnsafeSqlError
from text2sql.sql.parse import MAX_QUERY_CHARS, assert_read_only, orders_rows, parse

RUNS_BUT_MUST_NOT = {  # reads, as far as a parser can see: the authorizer, limits and deadlines stop them
    "an extension",
    "a function that reads files",
    "a function that writes files",
    "endless recursion",
    "endless recursion in the gold's shape",
    "a huge cross join",
    "a tokenizer's internals",
}


@pytest.mark.parametrize("case", read_cases("hostile")[1], ids=lambda case: case.title)
def test_hostile_statements_are_refused_by_their_tree(case: Case):
    if case.title in RUNS_BUT_MUST_NOT or case.title.startswith("gigabytes"):
        assert_read_only(parse(case.body))
    else:
        with pytest.raises(SqlError):
            assert_read_only(parse(case.body))


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("DELETE FROM t", "starts with DELETE"),
        ("WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d", "holds DELETE"),
        ("SELECT * INTO u FROM t", "holds INTO"),
        ("SELECT 1; SELECT 2", "holds 2"),
        ("SELECT * FROM sqlite_master", "sqlite_master"),
        ("SELECT * FROM other.t", "named with a database"),
    ],
)
def test_refusals_say_what_was_found(sql: str, words: str):
    with pytest.raises(UnsafeSqlError, match=words):
        assert_read_only(parse(sql))


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "  ",
        "-- only a comment",
        "SELECT FROM WHERE",
        "hello there",
        "SELECT 'open",
        "SELECT a FROM t WHERE (",
        "SELECT \0",
    ],
)
def test_what_is_no_sql_is_a_parse_error_in_one_line(sql: str):
    with pytest.raises(ParseError) as caught:
        assert_read_only(parse(sql))
    assert "\n" not in str(caught.value)


def test_a_lone_surrogate_is_a_parse_error():
    with pytest.raises(ParseError, match="Unicode"):
        parse("SELECT '\ud800'")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "(" * 100 + "1" + ")" * 100,
        "SELECT " + "(" * 399 + "1" + ")" * 399,
        "SELECT " + "(" * 100_000,
        "SELECT " + "(" * 20_000,
        "SELECT " + "CASE WHEN 1 THEN " * 500 + "1" + " END" * 500,
        "SELECT " + "NOT " * 5_000 + "1",
        "SELECT " + "- " * 5_000 + "1",
        "SELECT 1" + " + 1" * 10_000,
        "SELECT 1 WHERE 1" + " AND 1" * 6_000,
        "SELECT * FROM " + "(SELECT * FROM " * 300 + "t" + ")" * 300,
        "SELECT '" + "x" * MAX_QUERY_CHARS,
    ],
    ids=lambda sql: f"{sql[:24]}… ({len(sql)})",
)
def test_deep_and_long_text_neither_crashes_nor_hangs(sql: str):
    started = time.perf_counter()
    reason = ""
    try:
        assert_read_only(parse(sql))
    except SqlError as error:
        reason = str(error)
    assert len(reason) < 400
    assert time.perf_counter() - started < 10


def test_parentheses_within_strings_do_not_nest():
    assert parse(f"SELECT '{'(' * 1_000}'").sql()


@pytest.mark.parametrize(
    ("sql", "ordered"),
    [
        ("SELECT a FROM t ORDER BY b", True),
        ("SELECT a FROM t", False),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a) AS s", False),
        ("SELECT a FROM t WHERE a IN (SELECT a FROM t ORDER BY b LIMIT 1)", False),
        ("SELECT a FROM t UNION SELECT b FROM t ORDER BY a", True),
        ("(SELECT a FROM t ORDER BY a)", True),
    ],
)
def test_order_counts_at_top_level_only(sql: str, ordered: bool):
    assert orders_rows(parse(sql)) is ordered
