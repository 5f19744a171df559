"""Predictions to verdicts, in processes that untrusted SQL may hang or kill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2sql.config import EvaluationSection
from text2sql.data.databases import database_files, database_path
from text2sql.evaluation.cases import ATTEMPTS
from text2sql.evaluation.faults import find_fault
from text2sql.evaluation.suite import judge_row
from text2sql.evaluation.types import Difference, ResultSample, RowScore
from text2sql.progress import progress
from text2sql.sql.workers import Failure, map_rows

if TYPE_CHECKING:
    from datasets import Dataset

_WITHOUT_GOLD = RowScore(
    False, False, False, vacuous=True, error="gold not judged: it ends the process that runs it", fault="other"
)
_JUDGE = "text2sql.evaluation.score:judge_item"


def score_systems(
    rows: Dataset,
    predictions: Mapping[str, list[str]],
    evaluation: EvaluationSection,
    databases: Path | None = None,
) -> dict[str, list[RowScore]]:
    """Verdicts by system, parallel to its predictions; the databases of a row are filled once for all systems.

    Rows may also have `accepted`, a list of more golds, and `database`, a file or folder below `databases` to judge on.

    Raises:
        ExecutionError: what a row names is not below `databases`, or is a folder without databases.
    """
    contexts, golds = list(rows["context"]), list(rows["answer"])
    nothing: list[Any] = [None] * len(golds)
    accepted, named = (rows[name] if name in rows.column_names else nothing for name in ("accepted", "database"))
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
            "accepted": accepted[i] or [],
            **(_own(databases, named[i]) if databases and named[i] else {}),
        }
        for i in range(len(golds))
    ]
    verdicts = _verdicts(items)
    return {name: [row[i] for row in verdicts] for i, name in enumerate(predictions)}


def _own(databases: Path, name: str) -> dict[str, Any]:
    """What the item of a row says that names its database."""
    path = database_path(databases, name)
    return {"database": str(path), "databases": len(database_files(path))}


def judge_item(item: dict[str, Any]) -> list[dict[str, Any]]:
    """What a worker does with one row."""
    golds = [item["gold"], *item["accepted"]]
    return [
        asdict(replace(score, fault=find_fault(prediction, golds, item["context"], score)))
        for prediction, score in zip(item["predictions"], judge_row(**item), strict=True)
    ]


def _verdicts(items: list[dict[str, Any]]) -> list[list[RowScore]]:
    """By row and prediction. Where a row kills its worker, its gold and each of its predictions are tried alone.

    A gold that does so without any prediction makes its row vacuous, as one that does not run.
    """
    with progress("judging rows", len(items)) as advance:
        answers = map_rows(_JUDGE, items, _seconds(items), _not_judged, on_done=advance)
    failed = [i for i, answer in enumerate(answers) if answer is None]
    golds = map_rows(_JUDGE, [{**items[i], "predictions": []} for i in failed], _seconds(items), _not_judged)
    for i, gold in zip(failed, golds, strict=True):
        if gold is None:
            answers[i] = [asdict(_WITHOUT_GOLD) for _ in items[i]["predictions"]]
    blamed = [i for i, gold in zip(failed, golds, strict=True) if gold is not None]
    alone = [{**items[i], "predictions": [text]} for i in blamed for text in items[i]["predictions"]]
    again = iter(map_rows(_JUDGE, alone, _seconds(alone), _not_credited))
    for i in blamed:
        answers[i] = [next(again)[0] for _ in items[i]["predictions"]]
    return [[_row_score(score) for score in answer] for answer in answers]


def _row_score(score: dict[str, Any]) -> RowScore:
    """The inverse of asdict, from JSON."""
    found = score.get("difference")
    difference = Difference(found["database"], _sample(found["gold"]), _sample(found["predicted"])) if found else None
    return RowScore(**{**score, "difference": difference})


def _sample(sample: dict[str, Any]) -> ResultSample:
    return ResultSample(tuple(sample["columns"]), tuple(map(tuple, sample["rows"])), sample["total"])


def _seconds(items: list[dict[str, Any]]) -> float:
    """What a row may take: its queries are interrupted at their timeout, and a worker is killed where that fails."""
    queries = max(map(_queries, items), default=0)
    return 30.0 + queries * max((item["timeout"] for item in items), default=0.0)


def _queries(item: dict[str, Any]) -> int:
    """The gold runs up to thrice on each database that is tried; the time of its neighbours is bounded otherwise."""
    golds = 1 + len(item["accepted"])
    return int(golds * item["databases"] * (3 * ATTEMPTS + 3 + len(item["predictions"])))


def _not_judged(_item: dict[str, Any], _failure: Failure) -> None:
    """Nothing yet: whether the gold or which of the row's predictions is to blame is not known."""


def _not_credited(_item: dict[str, Any], failure: Failure) -> list[dict[str, Any]]:
    score = RowScore(False, False, False, False, f"judging failed: {failure.words}")
    return [asdict(replace(score, fault="timeout" if failure.late else "too_large"))]
