"""The figures of an evaluation as people read them: names, units, which way is up, base beside tuned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from text2sql.evaluation.types import Evaluation


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
        return {"share": f"{value:.1%}", "points": f"{value:.1f}", "ratio": f"{value:.3f}"}[self.unit]

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

SYSTEMS = {
    "base": "the base model",
    "base_few_shot": "the base model with examples",
    "tuned": "the tuned model",
    "champion": "the champion",
}
"""What the systems of a train run are called; any other goes by its own name."""


@dataclass(frozen=True)
class ComparisonRow:
    """One line of the table base beside tuned: the numbers, and the texts that show them."""

    figure: Figure
    base: float | None
    tuned: float | None
    base_text: str
    tuned_text: str
    difference_text: str
    """Signed; percentage points for shares; a dash where one side was not measured."""
    improved: bool | None
    """None when equal, not measured, or when neither way is better."""


def label(key: str) -> str:
    """A figure's name for people; an unknown key comes back with spaces."""
    return next((figure.label for figure in FIGURES if figure.key == key), key.replace("_", " "))


def comparison_table(evaluation: Evaluation) -> list[ComparisonRow]:
    """Base beside tuned, a row a figure that at least one of them has."""
    figures = {scores.name: scores.figures for scores in evaluation.systems}
    base, tuned = figures.get("base", {}), figures.get("tuned", {})
    return [
        _compare(figure, base.get(figure.key), tuned.get(figure.key))
        for figure in FIGURES
        if figure.key in base | tuned
    ]


def _compare(figure: Figure, base: float | None, tuned: float | None) -> ComparisonRow:
    difference_text, improved = "–", None
    if base is not None and tuned is not None and math.isfinite(base) and math.isfinite(tuned):
        difference = tuned - base
        scaled = difference * 100 if figure.unit == "share" else difference
        digits = 3 if figure.unit == "ratio" else 1
        sign = "±" if round(scaled, digits) == 0 else "+" if scaled > 0 else "−"
        difference_text = f"{sign}{abs(scaled):.{digits}f}" + (" pp" if figure.unit == "share" else "")
        if difference and figure.better != "neither":
            improved = (difference > 0) == (figure.better == "higher")
    texts = figure.show(base), figure.show(tuned), difference_text
    return ComparisonRow(figure, base, tuned, *texts, improved=improved)
