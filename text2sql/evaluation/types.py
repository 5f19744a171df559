"""What an evaluation yields: verdicts a row, figures a system, and the whole as JSON that can be read back.

Fractions run from 0 to 1, BLEU from 0 to 100, and perplexity is at least 1.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class RowScore:
    """The verdict on one prediction."""

    exact: bool
    """Equal to the gold after normalisation, and giving its results."""
    valid: bool
    """Parses, only reads, and runs on the row's schema."""
    executed: bool
    """The gold's result on every database of the row."""
    vacuous: bool
    """The row's databases cannot tell right from wrong; `executed` then follows `exact`."""
    error: str | None
    """Why the prediction is not valid, in one line."""


@dataclass(frozen=True)
class SystemScores:
    """One system's answers to the frozen test rows, and what they are worth."""

    name: str
    figures: dict[str, float]
    """perplexity, exact_match, valid_sql, execution_accuracy, rouge_l, bleu, vacuous (a share)."""
    predictions: list[str]
    rows: list[RowScore]
    """Parallel to `predictions`."""
    seconds: float
    """Loading, answering and judging."""


@dataclass(frozen=True)
class Evaluation:
    """Systems judged on the same rows; the lists are parallel, one entry a row."""

    systems: list[SystemScores]
    questions: list[str]
    contexts: list[str]
    golds: list[str]
    constructs: list[str]
    model: str
    """Name of the base model."""
    created: str
    """ISO 8601 time, UTC."""
    plain_schemas: dict[str, float] | None = None
    """Figures of the tuned model on the same rows without what data.realistic added; None where it added nothing."""

    def system(self, name: str) -> SystemScores:
        """The scores of one system.

        Raises:
            KeyError: no system has that name.
        """
        for scores in self.systems:
            if scores.name == name:
                return scores
        raise KeyError(f"no system {name!r}; there are {[scores.name for scores in self.systems]}")

    def to_json(self) -> str:
        """Indented JSON, the same text for the same evaluation."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """The inverse of `to_json`."""
        raw: dict[str, Any] = json.loads(text)
        systems = [
            SystemScores(**{**system, "rows": [RowScore(**row) for row in system["rows"]]})
            for system in raw.pop("systems")
        ]
        return cls(systems=systems, **raw)
