"""Which test rows a report shows, and what it shows of each."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from text2sql.evaluation.types import Cell, Evaluation, ResultSample, RowScore, TestRow

MAX_ROWS, MAX_COLUMNS = 8, 8
"""Of a result that is shown."""


@dataclass(frozen=True)
class Answer:
    """What one or several systems answered, word for word the same, to one question."""

    systems: tuple[int, ...]
    """Places in the evaluation's systems."""
    sql: str
    score: RowScore

    @property
    def difference(self) -> ShownDifference | None:
        """The results that show it to be wrong."""
        found = self.score.difference
        if found is None:
            return None
        return ShownDifference(found.database, *_side_by_side(found.gold, found.predicted))


@dataclass(frozen=True)
class ShownResult:
    """The first rows of a result, each with whether the other result lacks it."""

    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[Cell, ...], bool], ...]
    total: int
    more_columns: int


@dataclass(frozen=True)
class ShownDifference:
    """Gold's and prediction's results on the database that tells them apart."""

    database: str
    gold: ShownResult
    predicted: ShownResult
    reordered: bool
    """They have the same rows in another order."""

    @property
    def marked(self) -> bool:
        """A row of one side alone is shown."""
        return any(alone for result in (self.gold, self.predicted) for _, alone in result.rows)


@dataclass(frozen=True)
class Example:
    """One test row with every answer to it."""

    row: TestRow
    answers: tuple[Answer, ...]
    states: tuple[str, ...]
    """right, wrong or invalid, by system."""
    faults: tuple[str | None, ...]
    """By system."""
    vacuous: bool

    @property
    def slices(self) -> dict[str, tuple[str, ...]]:
        """The row's slices; of a row without any, the generator's label."""
        return self.row.slices or ({"construct": (self.row.construct,)} if self.row.construct else {})

    @property
    def slice_names(self) -> list[str]:
        """Each as `dimension:value`."""
        return [f"{dimension}:{value}" for dimension, values in self.slices.items() for value in values]


def state(score: RowScore) -> str:
    """right: the gold's result; wrong: another result; invalid: no result."""
    if score.executed:
        return "right"
    return "wrong" if score.valid else "invalid"


def vacuous_rows(evaluation: Evaluation) -> list[int]:
    """The places of test rows whose databases cannot tell right from wrong."""
    return [i for i in range(len(evaluation.rows)) if any(scores.rows[i].vacuous for scores in evaluation.systems)]


def choose_examples(evaluation: Evaluation, limit: int) -> list[Example]:
    """Rows to show: up to half of them wrong answers of the lead system, from each fault alike; the rest right ones."""
    subject = evaluation.subject
    if subject is None:
        return []
    wrong = [i for i, score in enumerate(subject.rows) if not score.executed]
    right = [i for i, score in enumerate(subject.rows) if score.executed]
    of_wrong = max(min(len(wrong), limit // 2), min(len(wrong), limit - len(right)))
    chosen = _of_each_kind(wrong, [subject.rows[i].fault for i in wrong], of_wrong)
    return [_example(evaluation, i) for i in sorted(chosen + _spread(right, limit - of_wrong))]


def _example(evaluation: Evaluation, i: int) -> Example:
    row = evaluation.rows[i]
    scores = [system.rows[i] for system in evaluation.systems]
    same: dict[tuple[str, RowScore], list[int]] = {}
    for place, system in enumerate(evaluation.systems):
        same.setdefault((system.predictions[i], scores[place]), []).append(place)
    return Example(
        row=row,
        answers=tuple(Answer(tuple(places), sql, score) for (sql, score), places in same.items()),
        states=tuple(map(state, scores)),
        faults=tuple(score.fault for score in scores),
        vacuous=any(score.vacuous for score in scores),
    )


def _of_each_kind(places: list[int], kinds: list[str | None], wanted: int) -> list[int]:
    """Evenly spaced places, as many of each kind as of any other while it has them."""
    groups: dict[str | None, list[int]] = {}
    for place, kind in zip(places, kinds, strict=True):
        groups.setdefault(kind, []).append(place)
    chosen: list[int] = []
    by_size = sorted(groups.values(), key=len)
    for done, group in enumerate(by_size):
        chosen += _spread(group, math.ceil((wanted - len(chosen)) / (len(by_size) - done)))
    return chosen


def _spread(places: list[int], wanted: int) -> list[int]:
    if wanted <= 0:
        return []
    if wanted >= len(places):
        return places
    return [places[index * len(places) // wanted] for index in range(wanted)]


def _side_by_side(gold: ResultSample, predicted: ResultSample) -> tuple[ShownResult, ShownResult, bool]:
    """Rows of one side alone are marked only where all rows of both are known.

    Rows that look the same and stand in the same order differ in what is cut off, and not in their order.
    """
    known = all(len(sample.rows) == sample.total for sample in (gold, predicted))
    left, right = Counter(gold.rows), Counter(predicted.rows)
    if not known:
        return _shown(gold, Counter()), _shown(predicted, Counter()), False
    return _shown(gold, left - right), _shown(predicted, right - left), left == right and gold.rows != predicted.rows


def _shown(sample: ResultSample, alone: Counter[tuple[Cell, ...]]) -> ShownResult:
    rows = []
    for row in sample.rows[:MAX_ROWS]:
        marked = alone[row] > 0
        alone[row] -= marked
        rows.append((row[:MAX_COLUMNS], marked))
    return ShownResult(
        sample.columns[:MAX_COLUMNS], tuple(rows), sample.total, max(len(sample.columns) - MAX_COLUMNS, 0)
    )
