from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sql.cases import Case, read_cases
from text2sql.errors import SqlError
from text2sql.sql.compare import same_result
from text2sql.sql.database import build_database, fill_database
from text2sql.sql.execute import Result, run_query
from text2sql.sql.hints import read_hints
from text2sql.sql.normalise import normalise
from text2sql.sql.parse import orders_rows, parse
from text2sql.sql.schema import parse_schema

SCHEMA, CASES = read_cases("normalise")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_fixture(case: Case):
    one, other = (normalise(sql, SCHEMA) for sql in case.pair)
    assert (one == other) is case.match, f"\n{one}\n{other}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_canonical_text_stays_as_it_is_when_spelt_otherwise(case: Case):
    for sql in case.pair:
        once = normalise(sql, SCHEMA)
        if "--" not in sql:  # a comment ends with its line
            assert normalise(sql.replace(" ", "\n  "), SCHEMA) == once


def run(sql: str, canonical: str, seed: int) -> Result:
    """The canonical text on the database that is filled for the query itself."""
    schema = parse_schema(SCHEMA)
    database = build_database(schema, forgiving=True)
    try:
        fill_database(database, schema, read_hints(parse(sql), schema), seed)
        return run_query(database, canonical, timeout=2)
    finally:
        database.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_canonical_text_asks_for_the_same_rows(case: Case):
    for sql in case.pair:
        canonical = normalise(sql, SCHEMA)
        if "^" in canonical:  # a column of an outer query is marked in a way that SQLite does not know
            continue
        for seed in range(4):
            result = run(sql, canonical, seed)
            assert same_result(run(sql, sql, seed), result, orders_rows(parse(sql))), canonical


def test_quoted_text_stays_apart_from_strings_without_a_schema():
    assert normalise('SELECT a FROM t WHERE b = "c"') != normalise("SELECT a FROM t WHERE b = 'c'")


def test_aliases_need_no_schema():
    assert normalise("SELECT T1.a FROM t AS T1 WHERE T1.b = 1") == normalise("select a from T where 1 = B")


@given(st.text(max_size=60))
def test_any_text_is_normalised_or_refused(text: str):
    try:
        said = normalise(text, SCHEMA)
    except SqlError as error:
        said = str(error)
    assert said.isprintable() or any(not character.isprintable() for character in text)
