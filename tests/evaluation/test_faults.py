from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sql.cases import read_cases
from text2sql.evaluation.faults import _CLAUSES, FAULTS, find_fault
from text2sql.evaluation.suite import judge_row
from text2sql.evaluation.types import RowScore

FIXTURE = yaml.safe_load((Path(__file__).parents[1] / "fixtures/faults.yaml").read_text("utf-8"))
CONTEXT, GOLD = FIXTURE["context"], FIXTURE["gold"]
CASES = [(fault, case) for fault, cases in FIXTURE["cases"].items() for case in cases]
RUNS = RowScore(exact=False, valid=True, executed=False, vacuous=False)
FAILS = RowScore(exact=False, valid=False, executed=False, vacuous=False)


def judged_fault(answer: str, gold: str = GOLD) -> str | None:
    (score,) = judge_row(CONTEXT, gold, [answer], databases=3, timeout=0.2)
    return find_fault(answer, [gold], CONTEXT, score)


@pytest.mark.parametrize(("fault", "case"), CASES)
def test_the_fault_of_a_judged_answer(fault: str, case: dict[str, Any]):
    assert judged_fault(case["answer"], case.get("gold", GOLD)) == fault


def test_every_fault_has_a_case():
    assert list(FIXTURE["cases"]) == list(FAULTS)


def test_clauses_are_compared_in_the_order_of_the_faults():
    assert list(_CLAUSES.values()) == [fault for fault in FAULTS if fault in _CLAUSES.values()]


def test_the_documentation_lists_them():
    text = (Path(__file__).parents[2] / "docs/metrics.md").read_text("utf-8")
    listed = re.findall(r"^\| `(\w+)` \| (.+) \|$", text[text.index("## Faults") :], re.MULTILINE)
    assert listed == list(FAULTS.items())


@pytest.mark.parametrize("case", FIXTURE["several_golds"], ids=lambda case: case["shows"])
def test_several_golds(case: dict[str, Any]):
    assert find_fault(case["answer"], case["golds"], CONTEXT, RUNS) == case["fault"]


def test_a_right_answer_has_none():
    assert judged_fault("SELECT s.name FROM singer s WHERE 20 < s.age") is None


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ("judging failed: took more than 30 s", "timeout"),
        ("judging failed: the worker process died", "too_large"),
        ("string or blob too big", "too_large"),
        ("too many terms in compound SELECT", "too_large"),
        ("the text nests deeper than 400 levels; flatten it", "too_large"),
        ("what nobody has heard of", "wrong_columns"),
        (None, "wrong_columns"),
    ],
)
def test_what_the_judge_says_of_an_answer_that_does_not_run(error: str | None, fault: str):
    score = RowScore(exact=False, valid=False, executed=False, vacuous=False, error=error)
    assert find_fault("SELECT age FROM singer WHERE age > 20", [GOLD], CONTEXT, score) == fault


def test_a_schema_that_cannot_be_read():
    assert find_fault("SELECT age FROM singer", [GOLD], "no schema", FAILS) == "other"


@pytest.mark.parametrize("case", read_cases("hostile")[1], ids=lambda case: case.title)
def test_hostile_answers_are_named(case: Any):
    for score in (FAILS, RUNS):
        assert find_fault(case.body, [GOLD], CONTEXT, score) in FAULTS


WORDS = st.sampled_from(
    """SELECT DISTINCT * name age singer concert friend id singer_id , . ( ) FROM JOIN LEFT ON = <> > 1 'x' "x" WHERE
    AND OR NOT IN EXISTS BETWEEN LIKE GROUP BY HAVING COUNT MAX ORDER DESC LIMIT OFFSET UNION EXCEPT WITH AS c
    RECURSIVE VALUES CASE WHEN THEN END NULL IS -- /* */ ; OVER PARTITION WINDOW USING CAST INTEGER ` [ ] \x00
    \ud800 é 💥""".split()  # noqa: SIM905
)


@given(st.one_of(st.text(max_size=80), st.lists(WORDS, max_size=25).map(" ".join)))
@settings(max_examples=400, deadline=None)
def test_no_text_makes_it_raise(text: str):
    for score in (FAILS, RUNS):
        assert find_fault(text, [GOLD, text], text if "(" in text else CONTEXT, score) in FAULTS


def _bomb(kind: str) -> str:
    return {
        "conjuncts": "SELECT name FROM singer WHERE " + " AND ".join(f"age > {i}" for i in range(4_000)),
        "columns": "SELECT " + ",".join(f"c{i}" for i in range(8_000)) + " FROM singer",
        "sources": "SELECT name FROM " + ",".join(f"singer s{i}" for i in range(3_000)),
        "nesting": "SELECT " + "(" * 390 + "age" + ")" * 390 + " FROM singer",
        "subqueries": "SELECT name FROM singer WHERE id IN (" * 350 + "1" + ")" * 350,
        "unions": " UNION ".join(["SELECT name FROM singer"] * 1_500),
        "literals": "SELECT name FROM singer WHERE age IN (" + ",".join(["1"] * 20_000) + ")",
        "length": "SELECT '" + "x" * 1_000_000 + "' FROM singer",
    }[kind]


@pytest.mark.parametrize(
    "kind", ["conjuncts", "columns", "sources", "nesting", "subqueries", "unions", "literals", "length"]
)
def test_no_text_takes_long(kind: str):
    text = _bomb(kind)
    started = time.perf_counter()
    for answer in (text, text[:4_990]):
        assert find_fault(answer, [GOLD], CONTEXT, FAILS) in FAULTS
        assert find_fault(answer, [GOLD], CONTEXT, RUNS) in FAULTS
    assert time.perf_counter() - started < 20
