"""Predictions to figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from text2sql.config import EvaluationSection
from text2sql.evaluation.metrics import bleu, rouge_l
from text2sql.evaluation.suite import judge_row
from text2sql.evaluation.types import RowScore
from text2sql.sql.workers import map_rows

if TYPE_CHECKING:
    from datasets import Dataset

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
    # A row's queries are interrupted at query_timeout each; a worker is killed only where that fails.
    seconds = 10.0 + 4 * evaluation.query_timeout * (len(columns) + 1)
    answers = map_rows("text2sql.evaluation.score:judge_item", items, seconds, _not_judged)
    verdicts = [[RowScore(**row) for row in answer] for answer in answers]
    return {
        name: Scores(own := [row[i] for row in verdicts], _figures(own, texts, golds))
        for i, (name, texts) in enumerate(predictions.items())
    }


def judge_item(item: dict[str, Any]) -> list[dict[str, Any]]:
    """What a worker does with one row."""
    return [asdict(score) for score in judge_row(**item)]


def _not_judged(item: dict[str, Any], reason: str) -> list[dict[str, Any]]:
    """A row that killed its worker: no prediction is credited, and none can be told from another."""
    score = RowScore(exact=False, valid=False, executed=False, vacuous=False, error=f"judging failed: {reason}")
    return [asdict(score)] * len(item["predictions"])


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
