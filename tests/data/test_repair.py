from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from text2sql.data.repair import KINDS, repair
from text2sql.data.synthetic import generate_rows
from text2sql.sql.database import build_database, fill_database, retyped
from text2sql.sql.execute import run_query
from text2sql.sql.hints import read_hints
from text2sql.sql.parse import parse
from text2sql.sql.schema import parse_schema

CASES = yaml.safe_load((Path(__file__).parents[1] / "fixtures" / "repair.yaml").read_text())
ROWS = generate_rows(600, seed=3)


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    case = CASES[name]
    expected = {"context": case["context"], "answer": case["answer"], "repairs": [], **case.get("becomes", {})}
    found = repair(case["context"], case["answer"])
    assert {"context": found.context, "answer": found.answer, "repairs": list(found.repairs)} == expected


@pytest.mark.parametrize("name", CASES)
def test_repairing_again_changes_nothing(name):
    once = repair(CASES[name]["context"], CASES[name]["answer"])
    again = repair(once.context, once.answer)
    assert (again.context, again.answer, again.repairs) == (once.context, once.answer, ())


def test_every_kind_has_a_case():
    assert {kind for case in CASES.values() for kind in case.get("becomes", {}).get("repairs", [])} == set(KINDS)


def result(context, answer, filled_for, forgiving=False):
    """The rows that a query returns on a database filled for another text of the same query."""
    schema = parse_schema(filled_for[0])
    hints = read_hints(parse(filled_for[1]), schema)
    database = build_database(retyped(schema, hints), forgiving)
    try:
        fill_database(database, retyped(schema, hints), hints, seed=0)
        return run_query(database, answer, 2.0).rows
    finally:
        database.close()


def test_rows_without_a_fault_come_back_byte_for_byte():
    for row in ROWS:
        found = repair(row["context"], row["answer"])
        assert (found.context, found.answer, found.repairs) == (row["context"], row["answer"], ())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ROWS), st.booleans(), st.booleans())
def test_no_repair_changes_the_result_of_a_query_that_ran(row, quotes, doubled):
    """Faults of sql-create-context put into sound rows: the query runs before (forgivingly) and after, alike."""
    context, answer = row["context"], row["answer"]
    if quotes:
        answer = answer.replace("'", '"')
    broken = f"{context}; {context}" if doubled else context
    found = repair(broken, answer)
    before = result(context, answer, (context, row["answer"]), forgiving=True)
    after = result(found.context, found.answer, (context, row["answer"]))
    assert before == after
    assert parse_schema(found.context).tables == parse_schema(context).tables


@pytest.mark.parametrize(
    ("answer", "conflicts"),
    [
        ("SELECT a FROM t WHERE a > 5 OR a = 'x'", ("t.a",)),
        ("SELECT a FROM t WHERE b = 'x' AND b > 2", ("t.b",)),
        ("SELECT a FROM t WHERE b = '3' AND b LIKE '1%' AND a = '5' AND d > 2010", ()),
    ],
)
def test_conflicts_of_number_and_text_are_named(answer, conflicts):
    assert repair("CREATE TABLE t (a VARCHAR, b INTEGER, d DATE)", answer).conflicts == conflicts
