"""The gate: may a tuned model be staged, and if not, why."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from text2sql.config import Beats, GateSection, Threshold, Thresholds
from text2sql.evaluation.figures import SYSTEMS, compared, label, show_difference
from text2sql.evaluation.types import Comparison, Evaluation, Interval


@dataclass(frozen=True)
class RuleResult:
    """One rule of the gate, applied."""

    name: str
    """Its key in the config: `beats_base`, `execution_accuracy.min`, …"""
    figure: float | None
    """What the tuned model reached; None when it was not measured or is no finite number."""
    bound: float | None
    """What the figure was held against; None where that is missing, as the figure of a model to beat may be."""
    passed: bool
    reason: str
    """One line for a reader who has not seen the config."""
    interval: Interval | None = None
    """95% interval of the figure; for a rule of beating, of the difference."""


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
        from pydantic import TypeAdapter

        return TypeAdapter(cls).validate_json(text)


def decide(evaluation: Evaluation, gate: GateSection) -> Verdict:
    """Hold the tuned model's figures against the gate.

    A figure that is missing, NaN or infinite breaks its rule: what was not measured has not been shown.
    """
    rules = list(_rules(evaluation, gate))
    return Verdict(passed=all(rule.passed for rule in rules), rules=rules)


def _rules(evaluation: Evaluation, gate: GateSection) -> Iterator[RuleResult]:
    subject = evaluation.subject
    name = subject.name if subject else ""
    whole = (subject.figures, subject.intervals) if subject else ({}, {})
    yield from _bounds("", gate, *whole)
    if gate.max_vacuous is not None:
        yield _bounded("max_vacuous", "vacuous", "max", gate.max_vacuous, *whole)
    for part, thresholds in gate.slices.items():
        found = next((slice_ for slice_ in evaluation.slices if slice_.name == part), None)
        figures = (found.figures.get(name, {}), found.intervals.get(name, {})) if found else ({}, {})
        yield from _bounds(f"slices.{part}.", thresholds, *figures, part)
    if gate.beats_base:
        yield _beats(evaluation, "base", "beats_base", gate.beats_base)
        if evaluation.find("base_few_shot"):
            yield _beats(evaluation, "base_few_shot", "beats_base_few_shot", gate.beats_base)
    if gate.beats_champion:
        yield _beats(evaluation, "champion", "beats_champion", gate.beats_champion, needed=False)


def _bounds(
    prefix: str,
    thresholds: Thresholds,
    figures: Mapping[str, float],
    intervals: Mapping[str, Interval],
    part: str = "",
) -> Iterator[RuleResult]:
    for key in Thresholds.model_fields:
        threshold: Threshold | None = getattr(thresholds, key)
        for side in ("min", "max"):
            bound = getattr(threshold, side, None)
            if bound is not None:
                yield _bounded(f"{prefix}{key}.{side}", key, side, bound, figures, intervals, part)


def _bounded(
    rule: str,
    key: str,
    side: str,
    bound: float,
    figures: Mapping[str, float],
    intervals: Mapping[str, Interval],
    part: str = "",
) -> RuleResult:
    """The figure `key`, of the slice `part` or of all rows, against one bound."""
    where = f" on {part}" if part else ""
    figure = figures.get(key)
    if figure is None or not math.isfinite(figure):
        problem = "was not measured" if figure is None else f"is {figure}, which is no figure to judge by"
        return RuleResult(rule, None, bound, passed=False, reason=f"{label(key)}{where} {problem}")
    left, right = _apart(figure, bound)
    passed = figure >= bound if side == "min" else figure <= bound
    relation = {
        ("min", True): "at least",
        ("min", False): "below the minimum of",
        ("max", True): "at most",
        ("max", False): "above the maximum of",
    }[side, passed]
    return RuleResult(
        rule, figure, bound, passed, f"{label(key)} {left}{where} is {relation} {right}", intervals.get(key)
    )


def _beats(evaluation: Evaluation, other: str, rule: str, beats: Beats, needed: bool = True) -> RuleResult:
    """The subject against another on the same rows; one not judged breaks the rule where it is `needed`."""
    subject, rival = evaluation.subject, evaluation.find(other)
    if rival is None and not needed:
        return RuleResult(rule, None, None, passed=True, reason=f"there is no {other} to beat yet")
    found = next((c for c in evaluation.comparisons if subject and (c.system, c.other) == (subject.name, other)), None)
    if subject is None or rival is None or found is None:
        reason = f"{label('execution_accuracy')} was not compared with that of {SYSTEMS[other]}"
        return RuleResult(rule, None, None, passed=False, reason=reason)
    passed, why = _is_better(found, beats)
    reached, bound = (scores.figures["execution_accuracy"] for scores in (subject, rival))
    left, right = _apart(reached, bound)
    low, high = (f"{100 * end:+.1f}" for end in found.interval)
    reason = (
        f"{label('execution_accuracy')} {left} against {right} of {SYSTEMS[other]}: "
        f"{100 * found.difference:+.1f} points [{low}, {high}], {why}"
    )
    return RuleResult(rule, reached, bound, passed, reason, found.interval)


def _is_better(found: Comparison, beats: Beats) -> tuple[bool, str]:
    if beats.margin is not None:
        passed = found.interval[0] >= -beats.margin
        relation = "not worse" if passed else "not shown to be no worse"
        return passed, f"{relation} by more than {100 * beats.margin:g} points"
    assert beats.significance is not None  # noqa: S101 - one of them is given
    passed = found.difference > 0 and found.p_value < beats.significance
    word = "better" if passed else "not shown to be better"
    return passed, f"{word} (p = {found.p_value:.2g}, asked for below {beats.significance:g})"


def _apart(left: float, right: float) -> tuple[str, str]:
    """Both numbers with as many digits as show that they differ."""
    for digits in (3, 6):
        texts = f"{left:.{digits}f}", f"{right:.{digits}f}"
        if left == right or texts[0] != texts[1]:
            return texts
    return repr(left), repr(right)


def _count(rules: int) -> str:
    return "1 rule" if rules == 1 else f"{rules} rules"


def why_keep_champion(evaluation: Evaluation, verdict: Verdict) -> str | None:
    """Why a challenger does not take the champion's place, in a line; None where it does.

    A tie keeps the champion: nobody gains from the change. Without a champion, the gate alone decides.
    """
    champion = evaluation.find("champion")
    who = "champion kept" if champion else "nothing goes live"
    if not verdict.passed:
        reasons = "; ".join(rule.reason for rule in verdict.rules if not rule.passed)
        return f"{who}: {verdict.headline} ({reasons})"
    found = compared(evaluation, evaluation.subject, champion)
    if found is not None and found.difference <= 0:
        points = show_difference(found.difference)
        return f"{who}: the challenger is not better ({label('execution_accuracy')} {points} points)"
    return None
