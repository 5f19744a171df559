"""What may go live."""

from __future__ import annotations

from dataclasses import replace

import pytest

from text2sql.deployment.checks import alike, questions_of
from text2sql.deployment.release import Release, release_of
from text2sql.errors import DeploymentError, GateRefusal
from text2sql.evaluation.gate import RuleResult, Verdict
from text2sql.evaluation.types import Evaluation, RowScore, SystemScores, TestRow

DIGEST = "d" * 64
PASSED = Verdict(True, [RuleResult("execution_accuracy.min", 0.9, 0.5, True, "Execution accuracy 0.900 is enough")])


def evaluation(rows: int = 4, digest: str | None = DIGEST) -> Evaluation:
    scores = [RowScore(exact=True, valid=i % 2 == 0, executed=True, vacuous=False) for i in range(rows)]
    predictions = [f"SELECT {i}" for i in range(rows)]
    subject = SystemScores("tuned", {"execution_accuracy": 0.9}, predictions, scores, 1.0, digest=digest)
    frozen = [TestRow(f"question {i}", "CREATE TABLE t (c)", f"SELECT {i}") for i in range(rows)]
    return Evaluation(frozen, [subject], "base", "2026-01-01T00:00:00+00:00")


def test_what_was_judged_and_passed_may_and_says_why():
    release = release_of("model", "3", DIGEST, evaluation(), PASSED)
    assert release.figures == {"execution_accuracy": 0.9}
    assert release.verdict == "Gate passed: 1 rule kept"
    assert Release.from_dict(release.to_dict()) == release


def test_a_failed_gate_is_refused_with_every_broken_rule():
    broken = [
        RuleResult("execution_accuracy.min", 0.4, 0.5, False, "Execution accuracy 0.400 is below the minimum of 0.500"),
        RuleResult("bleu.min", 9.0, 5.0, True, "BLEU 9.0 is enough"),
        RuleResult("beats_base", None, None, False, "No base was judged"),
    ]
    with pytest.raises(GateRefusal) as refused:
        release_of("model", "3", DIGEST, evaluation(), Verdict(False, broken))
    assert str(refused.value) == (
        "model version 3 is not deployed. Gate failed: 2 of 3 rules broken: Execution accuracy 0.400 is below the "
        "minimum of 0.500; No base was judged"
    )
    assert refused.value.exit_code == 3


@pytest.mark.parametrize("judged", ["e" * 64, None])
def test_row_32_an_artifact_that_is_not_the_evaluated_one_is_refused(judged: str | None):
    with pytest.raises(DeploymentError, match="the deployed artifact is not the evaluated one"):
        release_of("model", "3", DIGEST, evaluation(digest=judged), PASSED)


def test_questions_are_spread_over_all_rows_with_the_evaluated_answers():
    questions = questions_of(evaluation(9), 3)
    assert [question.question for question in questions] == ["question 0", "question 3", "question 6"]
    assert [question.answer for question in questions] == ["SELECT 0", "SELECT 3", "SELECT 6"]
    assert [question.valid for question in questions] == [True, False, True]
    assert len(questions_of(evaluation(2), 32)) == 2
    assert questions_of(replace(evaluation(), rows=[]), 32) == []


@pytest.mark.parametrize(
    ("expected", "answer", "same"),
    [
        ("SELECT a FROM t", "SELECT a FROM t", True),
        ("SELECT a FROM t;", "SELECT a FROM t", True),
        ("SELECT a FROM t; junk after it", "SELECT a FROM t", True),
        ("select A from T", "SELECT a FROM t", True),
        ("SELECT a FROM t", "SELECT b FROM t", False),
        ("no sql ( at all", "no sql ( at all", True),
        ("no sql ( at all", "other ( words", False),
        ("", "", True),
        ("SELECT a FROM t", "", False),
    ],
)
def test_when_two_answers_are_alike(expected: str, answer: str, same: bool):
    assert alike(expected, answer) is same
