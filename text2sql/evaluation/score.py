"""Predictions to figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from text2sql.config import EvaluationSection
from text2sql.evaluation.likeness import bleu, rouge_l
from text2sql.evaluation.suite import GOLD_RUNS, judge_row
from text2sql.evaluation.types import RowScore
from text2sql.sql.workers import map_rows

if TYPE_CHECKING:
    from datasets import Dataset

_JUDGE = "text2sql.evaluation.score:judge_item"
_SHOWN_CHARS = 20_000
"""ROUGE takes the product of two texts' lengths in time: a runaway answer is cut for the text figures."""


@dataclass(frozen=True)
class Scores:
    """Verdicts, parallel to the predictions, and their means."""

    rows: list[RowScore]
    figures: dict[str, float]
    """exact_match, valid_sql, execution_accuracy, rouge_l (all 0 to 1), bleu (0 to 100), vacuous (a share)."""


def score_predictions(rows: Dataset, predictions: list[str], evaluation: EvaluationSection) -> Scores:
    """Scores of one system's predictions, one for each row with `context` and `answer`."""
    return score_systems(rows, {"": predictions}, evaluation)[""]


def score_systems(
    rows: Dataset, predictions: Mapping[str, list[str]], evaluation: EvaluationSection
) -> dict[str, Scores]:
    """Scores by system; the databases of a row are filled once for all systems."""
    contexts, golds = list(rows["context"]), list(rows["answer"])
    for name, texts in predictions.items():
        if len(texts) != len(golds):
            raise ValueError(f"{name or 'predictions'}: {len(texts)} predictions for {len(golds)} rows")
    columns = list(predictions.values())
    items = [
        {
            "context": contexts[i],
            "gold": golds[i],
            "predictions": [texts[i] for texts in columns],
            "databases": evaluation.databases,
            "timeout": evaluation.query_timeout,
        }
        for i in range(len(golds))
    ]
    verdicts = _verdicts(items)
    return {
        name: Scores(own := [row[i] for row in verdicts], _figures(own, texts, golds))
        for i, (name, texts) in enumerate(predictions.items())
    }


def judge_item(item: dict[str, Any]) -> list[dict[str, Any]]:
    """What a worker does with one row."""
    return [asdict(score) for score in judge_row(**item)]


def _verdicts(items: list[dict[str, Any]]) -> list[list[RowScore]]:
    """By row and prediction. Where a row kills its worker, each of its predictions is tried again by itself."""
    answers = map_rows(_JUDGE, items, _seconds(items), _not_judged)
    failed = [i for i, answer in enumerate(answers) if answer is None]
    alone = [{**items[i], "predictions": [text]} for i in failed for text in items[i]["predictions"]]
    again = iter(map_rows(_JUDGE, alone, _seconds(alone), _not_credited))
    for i in failed:
        answers[i] = [next(again)[0] for _ in items[i]["predictions"]]
    return [[RowScore(**score) for score in answer] for answer in answers]


def _seconds(items: list[dict[str, Any]]) -> float:
    """What a row may take: its queries are interrupted at their timeout, and a worker is killed where that fails."""
    queries = max((item["databases"] * (GOLD_RUNS + len(item["predictions"])) for item in items), default=0)
    return 10.0 + queries * max((item["timeout"] for item in items), default=0.0)


def _not_judged(_item: dict[str, Any], _reason: str) -> None:
    """Nothing yet: which of the row's predictions is to blame is not known."""


def _not_credited(_item: dict[str, Any], reason: str) -> list[dict[str, Any]]:
    score = RowScore(exact=False, valid=False, executed=False, vacuous=False, error=f"judging failed: {reason}")
    return [asdict(score)]


def _figures(rows: list[RowScore], predictions: list[str], golds: list[str]) -> dict[str, float]:
    count = max(len(rows), 1)
    texts = [text[:_SHOWN_CHARS] for text in predictions]
    return {
        "exact_match": sum(row.exact for row in rows) / count,
        "valid_sql": sum(row.valid for row in rows) / count,
        "execution_accuracy": sum(row.executed for row in rows) / count,
        "rouge_l": rouge_l(texts, golds),
        "bleu": bleu(texts, golds),
        "vacuous": sum(row.vacuous for row in rows) / count,
    }
