"""What an evaluation yields: verdicts a row, figures a system, and the whole as JSON that can be read back.

Fractions run from 0 to 1, BLEU from 0 to 100, and perplexity is at least 1. docs/evaluation.md has the JSON's schema.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

Cell = str | int | float | None
"""What JSON can hold of a database's value; bytes are shown as text."""


@dataclass(frozen=True)
class TestRow:
    """One frozen test row, and the slices that it counts in."""

    __test__ = False  # not a test of pytest's

    question: str
    context: str
    gold: str
    accepted: tuple[str, ...] = ()
    """More golds that are as right."""
    construct: str = ""
    """The generator's label; "" elsewhere."""
    slices: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Dimension → values, several where it uses several constructs (text2sql.evaluation.slices)."""
    database: str = ""
    """The SQLite file, or folder of such, that it is judged on, below data.databases; "" where they are generated."""


@dataclass(frozen=True)
class ResultSample:
    """The first rows of a query's result."""

    columns: tuple[str, ...]
    """There may be more of them than of the values in a row."""
    rows: tuple[tuple[Cell, ...], ...]
    total: int
    """Rows of the whole result."""


@dataclass(frozen=True)
class Difference:
    """A database on which a prediction does not say what the gold says."""

    database: str
    """The number of the generated database, or the name of the file."""
    gold: ResultSample
    predicted: ResultSample


@dataclass(frozen=True)
class RowScore:
    """The verdict on one prediction."""

    exact: bool
    """Equal to a gold after normalisation, and giving its results."""
    valid: bool
    """Parses, only reads, and runs on the row's schema."""
    executed: bool
    """The gold's result on every database of the row."""
    vacuous: bool
    """The row's databases cannot tell right from wrong; `executed` then follows `exact`."""
    error: str | None = None
    """Why the prediction is not valid, in one line."""
    exact_without_values: bool = False
    """Equal to a gold after normalisation, once every literal is masked in both."""
    adheres: bool = False
    """Names no table and no column that the schema does not have; false for text that does not parse."""
    fault: str | None = None
    """What is wrong with it, of text2sql.evaluation.faults.FAULTS; None for a right answer."""
    difference: Difference | None = None
    """For an answer that runs and is wrong: the first database that shows it."""


@dataclass(frozen=True)
class TokenLoss:
    """How surprised a model is by the gold's tokens."""

    total: float
    """Sum of the negative log-likelihoods, in nats."""
    tokens: int


RIVALS = ("base", "base_few_shot", "champion")
"""Systems that a tuned model is held against; an evaluation is about one that is none of them, where there is one."""
Interval = tuple[float, float]
"""Ends of a 95% bootstrap interval."""


@dataclass(frozen=True)
class SystemScores:
    """One system's answers to the frozen test rows, and what they are worth."""

    name: str
    """base, base_few_shot, tuned, champion, or what the user calls it."""
    figures: dict[str, float]
    """By the keys of text2sql.evaluation.figures.FIGURES; one that was not measured is not there."""
    predictions: list[str]
    rows: list[RowScore]
    """Parallel to `predictions`."""
    seconds: float
    """Loading and answering, 0 where the answers were there already, and an equal share of the judging."""
    intervals: dict[str, Interval] = field(default_factory=dict)
    """95% intervals of the figures, by the same keys."""
    losses: list[TokenLoss] | None = None
    """Parallel to `predictions`; None where the source of the answers cannot tell."""
    source: str = ""
    """The model's name, the server's address, or the file that the answers came from."""
    digest: str | None = None
    """Checksum of the judged model folder: what is deployed must be this."""


def subject_of(systems: Sequence[SystemScores]) -> SystemScores:
    """Of several systems the one that they are judged for: the tuned model, else the first that is no rival of one."""
    return min(systems, key=lambda scores: (scores.name != "tuned", scores.name in RIVALS))


@dataclass(frozen=True)
class Comparison:
    """Execution accuracy of one system against another on the same rows."""

    system: str
    other: str
    difference: float
    """The system's accuracy less the other's."""
    interval: Interval
    """95%, by a paired bootstrap."""
    only_system: int
    """Rows that the system alone got right."""
    only_other: int
    p_value: float
    """McNemar's exact test, two-sided: how likely so uneven a split of these rows is if neither is better."""


@dataclass(frozen=True)
class SliceScores:
    """Figures on the test rows of one slice."""

    dimension: str
    value: str
    rows: int
    figures: dict[str, dict[str, float]]
    """System → figure → value."""
    intervals: dict[str, dict[str, Interval]]
    """Likewise."""

    @property
    def name(self) -> str:
        """As the gate's config writes it."""
        return f"{self.dimension}:{self.value}"


@dataclass(frozen=True)
class Evaluation:
    """Systems judged on the same rows."""

    rows: list[TestRow]
    systems: list[SystemScores]
    """Their `predictions` and `rows` are parallel to `rows`."""
    model: str
    """Name of the base model."""
    created: str
    """ISO 8601 time, UTC."""
    comparisons: list[Comparison] = field(default_factory=list)
    slices: list[SliceScores] = field(default_factory=list)
    rows_digest: str = ""
    """Checksum of the frozen rows: figures of two evaluations compare when it is the same."""
    plain_schemas: dict[str, float] | None = None
    """Figures of the tuned model on the same rows without what data.realistic added; None where it added nothing."""

    @property
    def subject(self) -> SystemScores | None:
        """The system that the evaluation is about, and that its gate judges."""
        return subject_of(self.systems) if self.systems else None

    def find(self, name: str) -> SystemScores | None:
        """The scores of one system, if it was judged."""
        return next((scores for scores in self.systems if scores.name == name), None)

    def system(self, name: str) -> SystemScores:
        """The scores of one system.

        Raises:
            KeyError: no system has that name.
        """
        scores = self.find(name)
        if scores is None:
            raise KeyError(f"no system {name!r}; there are {[scores.name for scores in self.systems]}")
        return scores

    def figures(self) -> dict[str, float]:
        """Every system's, in one mapping: `tuned_execution_accuracy`, …"""
        return {f"{scores.name}_{key}": value for scores in self.systems for key, value in scores.figures.items()}

    def to_json(self) -> str:
        """Indented JSON, the same text for the same evaluation."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """The inverse of `to_json`."""
        from pydantic import TypeAdapter

        return TypeAdapter(cls).validate_json(text)
