"""The gate: may a tuned model be staged, and if not, why."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from text2sql.config import GateSection, Threshold
from text2sql.evaluation.figures import label
from text2sql.evaluation.types import Evaluation


@dataclass(frozen=True)
class RuleResult:
    """One rule of the gate, applied."""

    name: str
    """Its key in the config: `beats_base`, `execution_accuracy.min`, …"""
    figure: float | None
    """What the tuned model reached; None when it was not measured or is no finite number."""
    bound: float | None
    """What the figure was held against; None when the base model's figure, the bound of beats_base, is missing."""
    passed: bool
    reason: str
    """One line for a reader who has not seen the config."""


@dataclass(frozen=True)
class Verdict:
    """What the gate says: passed when every rule did. A gate without rules lets everything through."""

    passed: bool
    rules: list[RuleResult]

    @property
    def headline(self) -> str:
        """The verdict in one line."""
        if not self.rules:
            return "Gate passed: it has no rules"
        failed = sum(not rule.passed for rule in self.rules)
        if not failed:
            return f"Gate passed: {_count(len(self.rules))} kept"
        return f"Gate failed: {failed} of {_count(len(self.rules))} broken"

    def to_json(self) -> str:
        """Indented JSON, the same text for the same verdict."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """The inverse of `to_json`."""
        raw: dict[str, Any] = json.loads(text)
        return cls(passed=raw["passed"], rules=[RuleResult(**rule) for rule in raw["rules"]])


def decide(evaluation: Evaluation, gate: GateSection) -> Verdict:
    """Hold the tuned model's figures against the gate.

    A figure that is missing, NaN or infinite breaks its rule: what was not measured has not been shown.
    """
    rules = list(_rules(evaluation, gate))
    return Verdict(passed=all(rule.passed for rule in rules), rules=rules)


def _rules(evaluation: Evaluation, gate: GateSection) -> Iterator[RuleResult]:
    if gate.beats_base:
        yield _beats_base(evaluation)
    for name in GateSection.model_fields:
        threshold = getattr(gate, name)
        if isinstance(threshold, Threshold):
            figure, problem = _figure(evaluation, "tuned", name)
            if threshold.min is not None:
                yield _bounded(name, "min", figure, threshold.min, problem)
            if threshold.max is not None:
                yield _bounded(name, "max", figure, threshold.max, problem)


def _beats_base(evaluation: Evaluation) -> RuleResult:
    tuned, problem = _figure(evaluation, "tuned", "execution_accuracy")
    base, base_problem = _figure(evaluation, "base", "execution_accuracy")
    if tuned is None or base is None:
        return RuleResult("beats_base", tuned, base, passed=False, reason=problem or base_problem)
    left, right = _apart(tuned, base)
    passed = tuned > base
    relation = "above" if passed else "not above"
    reason = f"{label('execution_accuracy')} {left} is {relation} the base model's {right}"
    return RuleResult("beats_base", tuned, base, passed, reason)


def _bounded(name: str, side: str, figure: float | None, bound: float, problem: str) -> RuleResult:
    if figure is None:
        return RuleResult(f"{name}.{side}", None, bound, passed=False, reason=problem)
    left, right = _apart(figure, bound)
    passed = figure >= bound if side == "min" else figure <= bound
    relation = {
        ("min", True): "at least",
        ("min", False): "below the minimum of",
        ("max", True): "at most",
        ("max", False): "above the maximum of",
    }[side, passed]
    return RuleResult(f"{name}.{side}", figure, bound, passed, f"{label(name)} {left} is {relation} {right}")


def _figure(evaluation: Evaluation, system: str, name: str) -> tuple[float | None, str]:
    """A finite figure and "", or None and what is wrong with it."""
    words = f"{label(name)} of the {system} model"
    scores = next((scores for scores in evaluation.systems if scores.name == system), None)
    value = None if scores is None else scores.figures.get(name)
    if value is None:
        return None, f"{words} was not measured"
    if not math.isfinite(value):
        return None, f"{words} is {value}, which is no figure to judge by"
    return float(value), ""


def _apart(left: float, right: float) -> tuple[str, str]:
    """Both numbers with as many digits as show that they differ."""
    for digits in (3, 6):
        texts = f"{left:.{digits}f}", f"{right:.{digits}f}"
        if left == right or texts[0] != texts[1]:
            return texts
    return repr(left), repr(right)


def _count(rules: int) -> str:
    return "1 rule" if rules == 1 else f"{rules} rules"
