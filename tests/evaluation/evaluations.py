"""Evaluations made by hand, small enough to reckon their figures in the head."""

from __future__ import annotations

from text2sql.evaluation.types import Comparison, Evaluation, RowScore, SystemScores, TestRow

RIGHT = RowScore(exact=True, valid=True, executed=True, vacuous=False, error=None)
EQUIVALENT = RowScore(exact=False, valid=True, executed=True, vacuous=False, error=None)
WRONG = RowScore(exact=False, valid=True, executed=False, vacuous=False, error=None)
INVALID = RowScore(exact=False, valid=False, executed=False, vacuous=False, error="no such column: nam")


def system(name: str, rows: list[RowScore], predictions: list[str] | None = None, **figures: float) -> SystemScores:
    counted = {
        "exact_match": sum(row.exact for row in rows) / len(rows),
        "valid_sql": sum(row.valid for row in rows) / len(rows),
        "execution_accuracy": sum(row.executed for row in rows) / len(rows),
    }
    answers = predictions or [f"SELECT {name}_{index}" for index in range(len(rows))]
    return SystemScores(name, counted | figures, answers, rows, seconds=2.0)


def compared(base: list[RowScore], tuned: list[RowScore]) -> Comparison:
    """Their difference, with an interval and a p-value that make it look sure."""
    pairs = [(after.executed, before.executed) for before, after in zip(base, tuned, strict=True)]
    gained, lost = pairs.count((True, False)), pairs.count((False, True))
    difference = (gained - lost) / len(pairs)
    return Comparison("tuned", "base", difference, (difference - 0.01, difference + 0.01), gained, lost, p_value=0.001)


def evaluation(base: list[RowScore], tuned: list[RowScore], constructs: list[str] | None = None) -> Evaluation:
    count = len(tuned)
    return Evaluation(
        systems=[
            system("base", base, rouge_l=0.5, bleu=31.0, perplexity=3.2, vacuous=0.0),
            system("tuned", tuned, rouge_l=0.9, bleu=88.0, perplexity=1.04, vacuous=0.0),
        ],
        rows=[
            TestRow(
                f"Question {index}?", f"CREATE TABLE t{index} (a INTEGER)", f"SELECT gold_{index}", construct=construct
            )
            for index, construct in enumerate(constructs or [""] * count)
        ],
        comparisons=[compared(base, tuned)],
        model="some/base-model",
        created="2026-11-23T05:00:00+00:00",
    )
