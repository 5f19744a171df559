from __future__ import annotations

import re
import time
from contextlib import suppress

import pytest

from tests.sql.cases import Hostile, read_hostile
from text2sql.errors import ParseError, SqlError, UnsafeSqlError
from text2sql.sql.parse import (
    MAX_QUERY_CHARS,
    assert_read_only,
    first_statement,
    one_line,
    orders_rows,
    parse,
    parse_statements,
)

NOT_SEEN_IN_THE_TREE = re.compile(  # what the authorizer, limits, deadlines and SQLite's own checks stop
    "function|no such (?:column|function)|ran longer|past its deadline|too (?:big|large|many)|parser stack overflow"
    "|^only SELECT is allowed$"
)


@pytest.mark.parametrize("case", read_hostile()[1], ids=lambda case: case.title)
def test_hostile_statements_are_refused_by_their_tree(case: Hostile):
    if NOT_SEEN_IN_THE_TREE.search(case.reason):
        assert_read_only(parse(case.text))
    else:
        with pytest.raises(SqlError, match=case.reason) as caught:
            assert_read_only(parse(case.text))
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) <= 250


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


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("name", ["CHAR", "VARCHAR", "DATE", "INT", "DECIMAL", "TIMESTAMP", "ARRAY", "STRUCT"])
def test_nested_type_names_do_not_hang(name: str, closed: bool):
    text = "SELECT " + f"{name}(" * 25 + "1" + ")" * (25 * closed)
    started = time.process_time()
    for read in (parse, parse_statements):
        with suppress(ParseError):
            read(text)
    assert time.process_time() - started < 2


def doubled(name: str) -> str:
    return f"(SELECT * FROM {name} UNION ALL SELECT * FROM {name})"


CTES = [f"c{i} AS {doubled(f'c{i - 1}')}" for i in range(1, 30)]
NESTED = "SELECT 1 AS x"
SHADOWED = "SELECT * FROM c"
for level in range(30):
    NESTED = f"SELECT * FROM (WITH n AS ({NESTED}) SELECT * FROM n UNION ALL SELECT * FROM n) AS s{level}"
    SHADOWED = f"SELECT * FROM (WITH {'cd'[level % 2]} AS {doubled('dc'[level % 2])} {SHADOWED}) AS s{level}"


@pytest.mark.parametrize(
    "sql",
    [
        f"WITH c0 AS (SELECT 1 AS x), {', '.join(CTES)} SELECT * FROM c29",
        f"WITH {', '.join(reversed(CTES))}, c0 AS (SELECT 1 AS x) SELECT * FROM c29",  # each names the next one
        f"SELECT * FROM (WITH c0 AS (SELECT 1 AS x), {', '.join(reversed(CTES))} SELECT * FROM c29) AS s",
        f"SELECT 1 WHERE EXISTS (WITH c0 AS (SELECT 1 AS x), {', '.join(CTES)} SELECT * FROM c29)",
        NESTED,
        f"WITH d AS (SELECT 1 AS x) {SHADOWED}",
        "WITH a AS (SELECT 1 AS x) SELECT 1 FROM " + ", ".join(f"a AS a{i}" for i in range(1_001)),
        "WITH c0 AS (SELECT 1 AS x), "
        + ", ".join(f"c{i} AS (SELECT * FROM c{i - 1})" for i in range(1, 900))
        + " SELECT * FROM c899",
    ],
    ids=["in order", "forwards", "in a subquery", "in a condition", "nested", "shadowed", "in one list", "a chain"],
)
def test_ctes_that_expand_without_end_are_refused(sql: str):
    tree = parse(sql)
    with pytest.raises(UnsafeSqlError, match=r"expands to more than 1000 queries|more than 200 deep"):
        assert_read_only(tree)


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9) SELECT * FROM n AS a, n AS b",
        "WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a, b",
        "SELECT * FROM (WITH a AS (SELECT 1) SELECT * FROM a) AS x, (WITH a AS (SELECT 2) SELECT * FROM a) AS y",
        "WITH t AS (SELECT * FROM t) SELECT * FROM t",
        "WITH c0 AS (SELECT 1), " + ", ".join(CTES[:7]) + " SELECT * FROM c7",
    ],
)
def test_ctes_in_reason_are_read(sql: str):
    assert_read_only(parse(sql))


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


@pytest.mark.parametrize(
    ("text", "statement"),
    [
        ("SELECT a FROM t", "SELECT a FROM t"),
        ("  SELECT a FROM t ;  ", "SELECT a FROM t"),
        ("SELECT a FROM t; SELECT b FROM t", "SELECT a FROM t"),
        ("SELECT a FROM t\n\nThis selects a; it's simple.", "SELECT a FROM t"),
        ("SELECT a FROM t\n \t\r\n-- more", "SELECT a FROM t"),
        ("\n\nSELECT a\nFROM t\n", "SELECT a\nFROM t"),
        ("SELECT ';', 'a\n\nb', \"c;\", `d;`, [e;] FROM t; rest", "SELECT ';', 'a\n\nb', \"c;\", `d;`, [e;] FROM t"),
        ("SELECT 'it''s; so' FROM t; rest", "SELECT 'it''s; so' FROM t"),
        ("SELECT a -- all; of it's\nFROM t; rest", "SELECT a -- all; of it's\nFROM t"),
        ("SELECT a /* one;\n\n'two */ FROM t; rest", "SELECT a /* one;\n\n'two */ FROM t"),
        ("-- the names\n\nSELECT a FROM t\n\nrest", "-- the names\n\nSELECT a FROM t"),
        (
            "WITH q AS (SELECT 1),\n\nr AS (\n\nSELECT 2)\n\nselect a FROM q\n\nrest",
            "WITH q AS (SELECT 1),\n\nr AS (\n\nSELECT 2)\n\nselect a FROM q",
        ),
        ("(SELECT a FROM t)\n\nrest", "(SELECT a FROM t)"),
        (
            "SELECT a FROM t WHERE b IN (\n\n  SELECT ')'\n\n)\n\nrest",
            "SELECT a FROM t WHERE b IN (\n\n  SELECT ')'\n\n)",
        ),
        ("SELECT a FROM t WHERE b = 'open\n\nrest; more", "SELECT a FROM t WHERE b = 'open"),
        ("SELECT 'open; text", "SELECT 'open; text"),
        ("```sql\nSELECT a FROM t;\n```\nIt selects a.", "SELECT a FROM t"),
        ("```\nSELECT a\nFROM t\n```", "SELECT a\nFROM t"),
        ("``` SELECT a FROM t ```", "SELECT a FROM t"),
        ("Here it is:\n\n```sql\nSELECT a FROM t\n```\n\nIt selects a.", "SELECT a FROM t"),
        ("SELECT '```sql\nb' FROM t", "SELECT '```sql\nb' FROM t"),
        ("SELECT a FROM t\n```\nIt selects a.", "SELECT a FROM t"),
        ("", ""),
        (";", ""),
        ("```", ""),
    ],
)
def test_first_statement(text: str, statement: str):
    assert first_statement(text) == statement
    assert first_statement(statement) == statement


@pytest.mark.parametrize(
    "text",
    [
        "'" * 50_001,
        "[" * 50_000,
        "`" * 50_000,
        "/*" * 25_000,
        "\n \n" * 20_000,
        "-" * 50_001,
        " " * 50_000 + "x",
        "``" * 25_000,
        "SELECT (" + "\n\nx" * 15_000,
        "WITH q AS (SELECT 1)" + "\n\nx" * 15_000,
    ],
)
def test_first_statement_of_any_text_is_found_quickly(text: str):
    started = time.process_time()
    first_statement(text)
    assert time.process_time() - started < 1


def test_one_line_leaves_nothing_that_ends_or_hides_a_line():
    assert one_line("a\r\nb\u2028c\x00d\u202ee\x85f  g", 20) == "a b c\ufffdd\ufffde f g"
    assert one_line("x" * 1_000_000, 10) == "x" * 9 + "…"
