from __future__ import annotations

import math

import pytest

from text2sql.config import GateSection, Threshold
from text2sql.evaluation.gate import Verdict, decide
from text2sql.evaluation.types import Evaluation, SystemScores

OPEN = GateSection(beats_base=False, execution_accuracy=None)


def judged(tuned: dict[str, float], base: dict[str, float] | None = None) -> Evaluation:
    systems = [] if base is None else [SystemScores("base", base, [], [], 1.0)]
    systems.append(SystemScores("tuned", tuned, [], [], 1.0))
    return Evaluation(systems, [], [], [], [], model="m", created="2026-11-23T00:00:00+00:00")


def test_default_gate_passes_a_tuned_model_that_is_good_and_better():
    verdict = decide(judged({"execution_accuracy": 0.8}, {"execution_accuracy": 0.3}), GateSection())
    assert verdict.passed
    assert [rule.name for rule in verdict.rules] == ["beats_base", "execution_accuracy.min"]
    assert verdict.headline == "Gate passed: 2 rules kept"


@pytest.mark.parametrize(("tuned", "passed"), [(0.31, True), (0.3, False), (0.29, False)])
def test_beats_base_means_strictly_above(tuned: float, passed: bool):
    gate = OPEN.model_copy(update={"beats_base": True})
    [rule] = decide(judged({"execution_accuracy": tuned}, {"execution_accuracy": 0.3}), gate).rules
    assert (rule.passed, rule.figure, rule.bound) == (passed, tuned, 0.3)
    assert ("not above" in rule.reason) is not passed


@pytest.mark.parametrize(
    ("figure", "passed", "reason"),
    [
        (1.5, True, "Perplexity 1.500 is at most 2.000"),
        (2.0, True, "Perplexity 2.000 is at most 2.000"),
        (2.5, False, "Perplexity 2.500 is above the maximum of 2.000"),
    ],
)
def test_a_maximum_is_inclusive(figure: float, passed: bool, reason: str):
    gate = OPEN.model_copy(update={"perplexity": Threshold(max=2.0)})
    verdict = decide(judged({"perplexity": figure}), gate)
    [rule] = verdict.rules
    assert (verdict.passed, rule.passed, rule.reason) == (passed, passed, reason)


def test_both_bounds_of_a_figure_are_rules_of_their_own():
    gate = OPEN.model_copy(update={"bleu": Threshold(min=10, max=90)})
    verdict = decide(judged({"bleu": 95.0}), gate)
    assert [(rule.name, rule.passed) for rule in verdict.rules] == [("bleu.min", True), ("bleu.max", False)]
    assert not verdict.passed
    assert verdict.headline == "Gate failed: 1 of 2 rules broken"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize("threshold", [Threshold(min=0.0), Threshold(max=1e9)])
def test_a_figure_that_is_missing_or_no_number_breaks_its_rule(value: float | None, threshold: Threshold):
    gate = OPEN.model_copy(update={"exact_match": threshold})
    verdict = decide(judged({} if value is None else {"exact_match": value}), gate)
    [rule] = verdict.rules
    assert not verdict.passed
    assert rule.figure is None
    assert "Exact match of the tuned model" in rule.reason
    assert ("was not measured" if value is None else f"is {value}") in rule.reason


@pytest.mark.parametrize("base", [None, {}, {"execution_accuracy": math.nan}])
def test_beats_base_fails_without_a_base_to_beat(base: dict[str, float] | None):
    [rule] = decide(judged({"execution_accuracy": 1.0}, base), OPEN.model_copy(update={"beats_base": True})).rules
    assert not rule.passed
    assert rule.bound is None
    assert "of the base model" in rule.reason


def test_a_near_miss_is_shown_with_digits_that_tell_it_from_its_bound():
    gate = OPEN.model_copy(update={"valid_sql": Threshold(min=0.5)})
    [rule] = decide(judged({"valid_sql": 0.499_99}), gate).rules
    assert rule.reason == "Valid SQL 0.499990 is below the minimum of 0.500000"


def test_a_gate_without_rules_lets_through_and_says_so():
    verdict = decide(judged({}), OPEN)
    assert verdict.passed
    assert verdict.headline == "Gate passed: it has no rules"


def test_json_round_trip():
    verdict = decide(judged({"execution_accuracy": math.nan}, {"execution_accuracy": 0.3}), GateSection())
    assert Verdict.from_json(verdict.to_json()) == verdict


def test_every_figure_of_the_config_can_be_gated():
    names = [name for name in GateSection.model_fields if name != "beats_base"]
    gate = GateSection(beats_base=False, **{name: Threshold(min=0.5) for name in names})
    verdict = decide(judged(dict.fromkeys(names, 1.0)), gate)
    assert [rule.name for rule in verdict.rules] == [f"{name}.min" for name in names]
    assert verdict.passed
