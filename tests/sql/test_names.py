from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from text2sql.errors import SqlError
from text2sql.evaluation.suite import judge_row
from text2sql.sql.names import adheres, adheres_to, invented_names
from text2sql.sql.parse import parse
from text2sql.sql.schema import parse_schema

FIXTURE = yaml.safe_load((Path(__file__).parents[1] / "fixtures/names.yaml").read_text("utf-8"))
CONTEXT = FIXTURE["context"]
SCHEMA = parse_schema(CONTEXT)
QUERIES = [(query, []) for query in FIXTURE["real"]] + [(case["query"], case["names"]) for case in FIXTURE["invented"]]


@pytest.mark.parametrize(("query", "names"), QUERIES)
def test_invented_names(query: str, names: list[str]):
    found = invented_names(parse(query), SCHEMA)
    assert [f"{invented.kind} {invented.name}" for invented in found] == names
    assert adheres(query, SCHEMA) == (not names)


@pytest.mark.parametrize(("query", "names"), QUERIES)
def test_the_judge_says_the_same(query: str, names: list[str]):
    """It asks SQLite, which knows best."""
    (score,) = judge_row(CONTEXT, "SELECT name FROM singer", [query], databases=1, timeout=1.0)
    assert score.valid == (not names), score.error
    if names:
        assert score.error is not None
        assert score.error.startswith(("no such column", "no such table", "cannot join using column")), score.error


def test_text_that_is_no_query_adheres_to_nothing():
    for text in ("", "no SQL", "DROP TABLE singer", "SELECT name FROM singer; SELECT 1", "SELECT " + "(" * 500):
        assert not adheres(text, SCHEMA)
    assert not adheres_to("SELECT name FROM singer", "no schema")
    assert adheres_to("SELECT name FROM singer", CONTEXT)


WORDS = st.sampled_from(
    """SELECT * name nme singer concert T1 T1.name T1.* . , ( ) FROM JOIN ON USING = 1 'x' "x" WHERE IN EXISTS GROUP BY
    ORDER UNION WITH AS c c.x VALUES AS""".split()  # noqa: SIM905
)


@given(st.lists(WORDS, max_size=25).map(lambda words: "SELECT " + " ".join(words)))
@settings(max_examples=300, deadline=None)
def test_no_query_makes_it_raise(text: str):
    try:
        tree = parse(text)
    except SqlError:
        assert not adheres(text, SCHEMA)
    else:
        assert adheres(text, SCHEMA) == (not invented_names(tree, SCHEMA))
