"""The figures of an evaluation as people read them: names, units, which way is up, a column a system."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from text2sql.evaluation.types import Comparison, Evaluation, Interval, SystemScores


@dataclass(frozen=True)
class Figure:
    """How one figure is named and shown."""

    key: str
    label: str
    unit: Literal["share", "points", "ratio"]
    """share: 0 to 1, shown as a percentage; points: 0 to 100; ratio: any number from 1 up."""
    better: Literal["higher", "lower", "neither"]
    meaning: str

    def show(self, value: float | None) -> str:
        """The value with its unit; a dash for what was not measured."""
        if value is None or not math.isfinite(value):
            return "–"
        ratio = f"{value:.3f}" if value < 100 else f"{value:,.0f}"
        return {"share": f"{value:.1%}", "points": f"{value:.1f}", "ratio": ratio}[self.unit]

    def show_interval(self, interval: Interval | None) -> str:
        """Both ends in the value's unit, which is not repeated; "" without an interval."""
        if interval is None or not all(map(math.isfinite, interval)):
            return ""
        low, high = (self.show(end).removesuffix("%") for end in interval)
        return f"[{low}, {high}]"

    def fill(self, value: float | None) -> float | None:
        """How much of a bar the value fills, 0 to 1; None where a bar makes no sense."""
        if value is None or not math.isfinite(value) or self.unit == "ratio":
            return None
        return min(max(value / (100 if self.unit == "points" else 1), 0.0), 1.0)


FIGURES = (
    Figure(
        "execution_accuracy",
        "Execution accuracy",
        "share",
        "higher",
        "answers with the gold query's result on every database made for the row",
    ),
    Figure("exact_match", "Exact match", "share", "higher", "answers equal to the gold query once both are normalised"),
    Figure(
        "exact_match_without_values", "Exact match but for values", "share", "higher", "… once literals are masked too"
    ),
    Figure("valid_sql", "Valid SQL", "share", "higher", "answers that parse, only read, and run on their schema"),
    Figure("schema_adherence", "Schema adherence", "share", "higher", "answers that invent no table and no column"),
    Figure("rouge_l", "ROUGE-L", "share", "higher", "longest common subsequence of words with the gold query, F1"),
    Figure("bleu", "BLEU", "points", "higher", "word n-grams shared with the gold queries, over all rows"),
    Figure("perplexity", "Perplexity", "ratio", "lower", "exp(mean loss) over the gold query's tokens; 1 is certainty"),
    Figure("vacuous", "Vacuous rows", "share", "neither", "rows whose databases cannot tell right from wrong"),
)
"""All figures, the most telling first."""
ACCURACY = FIGURES[0]

SYSTEMS = {
    "base": "the base model",
    "base_few_shot": "the base model with examples",
    "tuned": "the tuned model",
    "champion": "the champion",
}
"""What the systems of a train run are called; any other goes by its own name."""
HEADINGS = {"base": "Base", "base_few_shot": "Base, few-shot", "tuned": "Tuned", "champion": "Champion"}


@dataclass(frozen=True)
class Cell:
    """One figure of one system, and the texts that show it."""

    value: float | None
    """None where it was not measured or is no finite number."""
    interval: Interval | None
    text: str
    interval_text: str
    """"" without an interval."""


@dataclass(frozen=True)
class FigureRow:
    """One figure of every system."""

    figure: Figure
    cells: tuple[Cell, ...]
    """Parallel to the evaluation's systems."""


def label(key: str) -> str:
    """A figure's name for people; an unknown key comes back with spaces."""
    return next((figure.label for figure in FIGURES if figure.key == key), key.replace("_", " "))


def heading(name: str) -> str:
    """A system's name over its column."""
    return HEADINGS.get(name, name)


def figure_table(evaluation: Evaluation) -> list[FigureRow]:
    """A row a figure that at least one system has, a cell a system."""
    return [
        FigureRow(figure, tuple(cell(figure, scores.figures, scores.intervals) for scores in evaluation.systems))
        for figure in FIGURES
        if any(figure.key in scores.figures for scores in evaluation.systems)
    ]


def cell(figure: Figure, figures: dict[str, float], intervals: dict[str, Interval]) -> Cell:
    """One figure out of those of a system or of its slice."""
    value = figures.get(figure.key)
    if value is None or not math.isfinite(value):
        return Cell(None, None, figure.show(None), "")
    text = figure.show_interval(interval := intervals.get(figure.key))
    return Cell(value, interval if text else None, figure.show(value), text)


def best_rival(evaluation: Evaluation) -> SystemScores | None:
    """The most accurate of the other systems; of equals the first."""
    subject = evaluation.subject
    others = [s for s in evaluation.systems if s is not subject and ACCURACY.fill(_accuracy(s)) is not None]
    return max(others, key=_accuracy, default=None)


def compared(evaluation: Evaluation, system: SystemScores | None, other: SystemScores | None) -> Comparison | None:
    """The comparison of these two, if it was made."""
    if system is None or other is None:
        return None
    names = system.name, other.name
    return next((found for found in evaluation.comparisons if (found.system, found.other) == names), None)


def show_difference(difference: float) -> str:
    """Of two shares, in percentage points with a sign."""
    points = round(100 * difference, 1)
    return f"{'±' if points == 0 else '+' if points > 0 else '−'}{abs(points):.1f}"


def show_comparison(found: Comparison) -> str:
    """How far apart, in points, with interval and p-value."""
    low, high = map(show_difference, found.interval)
    return f"{show_difference(found.difference)} points [{low}, {high}], {show_p(found.p_value)}"


def show_p(p_value: float) -> str:
    """As papers write it."""
    return f"p = {p_value:.2g}" if p_value >= 0.001 else "p < 0.001"


def _accuracy(scores: SystemScores) -> float:
    return scores.figures.get(ACCURACY.key, math.nan)
