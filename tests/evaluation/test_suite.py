from __future__ import annotations

import pytest

from tests.sql.cases import Case, read_cases
from text2sql.evaluation.suite import Suite, judge_row

SCHEMA, CASES = read_cases("execution")
_, SPELLINGS = read_cases("normalise")
GOLD = "SELECT name FROM singer WHERE age > 30"


def judge(gold: str, prediction: str, context: str = SCHEMA, databases: int = 5, timeout: float = 2.0):
    return judge_row(context, gold, [prediction], databases, timeout)[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_execution_fixture(case: Case):
    score = judge(*case.pair)
    assert (score.valid, score.vacuous, score.error) == (True, False, None)
    assert score.executed is case.match


@pytest.mark.parametrize("case", [case for case in SPELLINGS if case.match], ids=lambda case: case.title)
def test_spellings_of_one_query_run_alike(case: Case):
    """What normalisation equates must give the same rows: a check on it by other means."""
    schema, _ = read_cases("normalise")
    one, other = case.pair
    with Suite(schema, one, 5, 2.0) as suite:
        assert suite.difference(other) is None
        assert suite.judge(other).exact


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\0",
        "\ud800",
        "(" * 100_000,
        "SELECT " + "x" * 1_000_000,
        "x" * 1_000_000,
        "SELECT '",
        "🙂",
        "SELECT 1 /*",
    ],
    ids=lambda text: f"{text[:8]!a} ({len(text)})",
)
def test_any_text_is_judged(text: str):
    score = judge(GOLD, text)
    assert (score.exact, score.executed) == (False, False)


def test_the_gold_itself_is_exact_and_executed():
    score = judge(GOLD, GOLD)
    assert (score.exact, score.valid, score.executed, score.vacuous, score.error) == (True, True, True, False, None)


def test_a_mistake_of_the_normaliser_credits_nobody(monkeypatch):
    monkeypatch.setattr("text2sql.evaluation.suite.canonical", lambda *_: "the same for all")
    wrong = judge(GOLD, "SELECT name FROM singer WHERE age >= 30")
    assert (wrong.exact, wrong.executed, wrong.valid) == (False, False, True)
    assert judge(GOLD, "SELECT name FROM singer WHERE 30 < age").exact


def test_an_answer_equal_to_a_gold_without_a_defined_result_is_exact():
    gold = "SELECT s.name FROM singer AS s, concert AS c WHERE s.age > 1 AND c.year > 1 LIMIT 1"
    other = "SELECT s.name FROM concert AS c, singer AS s WHERE c.year > 1 AND s.age > 1 LIMIT 1"
    assert judge(gold, other).exact


def test_an_invented_column_is_not_valid():
    score = judge(GOLD, "SELECT nmae FROM singer WHERE age > 30")
    assert (score.valid, score.error) == (False, "no such column: nmae")


def test_an_invented_column_in_double_quotes_is_not_valid_either():
    """SQLite would return the text 'nmae' for each row."""
    score = judge(GOLD, 'SELECT "nmae" FROM singer WHERE age > 30')
    assert (score.valid, score.error) == (False, "no such column: nmae")


@pytest.mark.parametrize(
    "condition",
    [
        "\"contry\" = 'France'",
        "'France' = \"contry\"",
        '("aeg") > 30',
        '"aeg" BETWEEN 20 AND 30',
        "\"contry\" IN ('France', 'Spain')",
        "\"contry\" LIKE '%a%'",
        '"contry" IS NOT NULL',
        'age > 30 AND NOT "aeg" = 31',
        '"contry" = "France"',
        'age > (SELECT AVG("aeg") FROM singer)',
        'age = (SELECT COUNT(DISTINCT "aeg") FROM singer)',
        'age = (SELECT MAX(("aeg")) FROM singer)',
    ],
)
def test_nor_is_an_invented_column_in_double_quotes_in_a_condition(condition: str):
    score = judge(GOLD, f"SELECT name FROM singer WHERE {condition}")
    assert not score.valid
    assert str(score.error).startswith("no such column: ")


@pytest.mark.parametrize(
    "condition",
    [
        'country = "France"',
        '"France" = country',
        'LOWER(country) = "france"',
        'country IN ("France", "Spain")',
        'country BETWEEN "France" AND "Spain"',
        'country LIKE "%a%"',
        "REPLACE(country, \"a\", 'b') = 'x'",
        '(SELECT GROUP_CONCAT(name, ", ") FROM singer) = country',
        "\"country\" = 'France'",
    ],
)
def test_text_in_double_quotes_is_a_string_opposite_a_column(condition: str):
    assert judge(GOLD, f"SELECT name FROM singer WHERE {condition}").valid


def test_double_quoted_strings_of_the_gold_are_forgiven():
    gold = 'SELECT name FROM singer WHERE country = "France"'
    assert judge(gold, "SELECT name FROM singer WHERE country = 'France'").exact
    assert judge(gold, 'SELECT s.name FROM singer s WHERE "France" = s.country').exact
    assert not judge(gold, 'SELECT name FROM singer WHERE country = "Spain"').executed


@pytest.mark.parametrize(
    "gold",
    [
        "SELECT name FROM singer WHERE age > 30 AND age < 20",
        "SELECT COUNT(*) FROM singer WHERE age > 30 AND age < 20",
        "SELECT MAX(age) FROM singer WHERE age IS NULL",
        "SELECT 1",
    ],
)
def test_a_vacuous_row_credits_an_equal_answer_only(gold: str):
    assert (judge(gold, gold).vacuous, judge(gold, gold).executed) == (True, True)
    other = judge(gold, f"{gold} LIMIT 7")
    assert (other.vacuous, other.exact, other.executed, other.valid) == (True, False, False, True)


def test_ties_do_not_decide():
    """Which of several equal rows comes first is luck: such databases are passed over, or both answers count."""
    gold = "SELECT name FROM singer ORDER BY age DESC LIMIT 1"
    assert judge(gold, "SELECT name FROM singer WHERE age = (SELECT MAX(age) FROM singer)").executed


def test_an_answer_without_order_by_may_be_any_row():
    with Suite(SCHEMA, "SELECT name FROM singer LIMIT 1", 8, 2.0) as suite:
        assert 2 in {len(case.results) for case in suite.cases}
        assert suite.difference("SELECT name FROM singer LIMIT 1") is None


@pytest.mark.parametrize(
    ("context", "gold"),
    [
        (SCHEMA, "SELECT nothing FROM singer"),
        (SCHEMA, "no SQL"),
        (SCHEMA, "DELETE FROM singer"),
        ("no schema", "SELECT name FROM singer"),
        (SCHEMA, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT SUM(i) FROM n"),
    ],
)
def test_a_gold_that_cannot_be_judged_is_vacuous(context: str, gold: str):
    score = judge_row(context, gold, ["SELECT name FROM singer"], 5, 0.2)[0]
    assert (score.vacuous, score.executed) == (True, False)
    assert score.error


def test_more_databases_are_used_when_asked_for():
    for count in (1, 3, 8):
        with Suite(SCHEMA, GOLD, count, 2.0) as suite:
            assert len(suite.cases) == count


def test_verdicts_repeat():
    texts = [case.pair[1] for case in CASES]
    assert judge_row(SCHEMA, GOLD, texts, 5, 2.0) == judge_row(SCHEMA, GOLD, texts, 5, 2.0)
