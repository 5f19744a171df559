"""Evaluations made by hand, small enough to reckon their figures in the head."""

from __future__ import annotations

from text2sql.evaluation.types import Evaluation, RowScore, SystemScores

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


def evaluation(base: list[RowScore], tuned: list[RowScore], constructs: list[str] | None = None) -> Evaluation:
    count = len(tuned)
    return Evaluation(
        systems=[
            system("base", base, rouge_l=0.5, bleu=31.0, perplexity=3.2, vacuous=0.0),
            system("tuned", tuned, rouge_l=0.9, bleu=88.0, perplexity=1.04, vacuous=0.0),
        ],
        questions=[f"Question {index}?" for index in range(count)],
        contexts=[f"CREATE TABLE t{index} (a INTEGER)" for index in range(count)],
        golds=[f"SELECT gold_{index}" for index in range(count)],
        constructs=constructs or [""] * count,
        model="some/base-model",
        created="2026-11-23T05:00:00+00:00",
    )
