from __future__ import annotations

import math

import pytest

from text2sql.config import Beats, GateSection, Threshold, Thresholds
from text2sql.evaluation.gate import Verdict, decide, why_keep_champion
from text2sql.evaluation.types import Comparison, Evaluation, SliceScores, SystemScores

OPEN = GateSection(beats_base=None, beats_champion=None, max_vacuous=None, execution_accuracy=None)
BETTER = Beats(significance=0.05)
NO_WORSE = Beats(margin=0.02)


def judged(tuned: dict[str, float], *comparisons: Comparison, slices: tuple[SliceScores, ...] = ()) -> Evaluation:
    """The tuned model's figures, and a rival for each comparison."""
    systems = [
        SystemScores(c.other, {"execution_accuracy": tuned["execution_accuracy"] - c.difference}, [], [], 1.0)
        for c in comparisons
    ]
    intervals = {name: (value - 0.1, value + 0.1) for name, value in tuned.items()}
    systems.insert(0, SystemScores("tuned", tuned, [], [], 1.0, intervals))
    return Evaluation(
        [], systems, model="m", created="2026-11-23T00:00:00+00:00", comparisons=list(comparisons), slices=list(slices)
    )


def against(other: str, difference: float = 0.1, low: float = 0.05, p_value: float = 0.001) -> Comparison:
    return Comparison("tuned", other, difference, (low, low + 0.1), 9, 1, p_value)


def only_rule(evaluation: Evaluation, **gate):
    [rule] = decide(evaluation, OPEN.model_copy(update=gate)).rules
    return rule


def test_default_gate_passes_a_tuned_model_that_is_good_and_better():
    good = judged({"execution_accuracy": 0.8, "vacuous": 0.1}, against("base"), against("base_few_shot"))
    verdict = decide(good, GateSection())
    assert verdict.passed
    assert [rule.name for rule in verdict.rules] == [
        "execution_accuracy.min", "max_vacuous", "beats_base", "beats_base_few_shot", "beats_champion"
    ]  # fmt: skip
    assert verdict.headline == "Gate passed: 5 rules kept"
    assert verdict.rules[0].interval == (pytest.approx(0.7), pytest.approx(0.9))
    assert verdict.rules[-1].reason == "there is no champion to beat yet"


@pytest.mark.parametrize(
    ("difference", "p_value", "passed"),
    [(0.1, 0.049, True), (0.1, 0.05, False), (0.0, 0.001, False), (-0.1, 0.001, False)],
)
def test_better_means_a_difference_above_nothing_that_is_no_luck(difference: float, p_value: float, passed: bool):
    rule = only_rule(
        judged({"execution_accuracy": 0.6}, against("base", difference, p_value=p_value)), beats_base=BETTER
    )
    assert (rule.name, rule.passed, rule.figure) == ("beats_base", passed, 0.6)
    assert rule.bound == pytest.approx(0.6 - difference)
    assert ("not shown to be better" in rule.reason) is not passed


@pytest.mark.parametrize(("low", "passed"), [(-0.02, True), (-0.021, False), (0.01, True)])
def test_no_worse_means_an_interval_that_ends_above_the_margin(low: float, passed: bool):
    rule = only_rule(
        judged({"execution_accuracy": 0.6}, against("champion", 0.0, low, p_value=1.0)), beats_champion=NO_WORSE
    )
    assert (rule.passed, rule.interval) == (passed, (low, low + 0.1))
    assert "by more than 2 points" in rule.reason


def test_the_few_shot_base_must_be_beaten_too():
    strong = judged({"execution_accuracy": 0.6}, against("base"), against("base_few_shot", 0.01, p_value=0.4))
    verdict = decide(strong, OPEN.model_copy(update={"beats_base": BETTER}))
    assert [(rule.name, rule.passed) for rule in verdict.rules] == [
        ("beats_base", True),
        ("beats_base_few_shot", False),
    ]
    assert not verdict.passed


def test_a_base_that_was_not_compared_is_not_beaten_and_a_missing_champion_is():
    alone = judged({"execution_accuracy": 1.0})
    rule = only_rule(alone, beats_base=BETTER)
    assert not rule.passed
    assert "was not compared with that of the base model" in rule.reason
    assert only_rule(alone, beats_champion=BETTER).passed


@pytest.mark.parametrize(
    ("figure", "passed", "reason"),
    [
        (1.5, True, "Perplexity 1.500 is at most 2.000"),
        (2.0, True, "Perplexity 2.000 is at most 2.000"),
        (2.5, False, "Perplexity 2.500 is above the maximum of 2.000"),
    ],
)
def test_a_maximum_is_inclusive(figure: float, passed: bool, reason: str):
    rule = only_rule(judged({"perplexity": figure}), perplexity=Threshold(max=2.0))
    assert (rule.passed, rule.reason) == (passed, reason)


def test_both_bounds_of_a_figure_are_rules_of_their_own():
    gate = OPEN.model_copy(update={"bleu": Threshold(min=10, max=90)})
    verdict = decide(judged({"bleu": 95.0}), gate)
    assert [(rule.name, rule.passed) for rule in verdict.rules] == [("bleu.min", True), ("bleu.max", False)]
    assert not verdict.passed
    assert verdict.headline == "Gate failed: 1 of 2 rules broken"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize("threshold", [Threshold(min=0.0), Threshold(max=1e9)])
def test_a_figure_that_is_missing_or_no_number_breaks_its_rule(value: float | None, threshold: Threshold):
    rule = only_rule(judged({} if value is None else {"exact_match": value}), exact_match=threshold)
    assert not rule.passed
    assert rule.figure is None
    assert rule.reason.startswith("Exact match ")
    assert ("was not measured" if value is None else f"is {value}") in rule.reason


def test_slices_have_bounds_of_their_own():
    extra = SliceScores(
        "hardness", "extra", 40, {"tuned": {"exact_match": 0.4}}, {"tuned": {"exact_match": (0.3, 0.5)}}
    )
    gate = OPEN.model_copy(
        update={
            "slices": {
                "hardness:extra": Thresholds(exact_match=Threshold(min=0.5)),
                "tables:3": Thresholds(exact_match=Threshold(min=0.1)),
            }
        }
    )
    verdict = decide(judged({"exact_match": 0.9}, slices=(extra,)), gate)
    assert [(rule.name, rule.passed, rule.interval) for rule in verdict.rules] == [
        ("slices.hardness:extra.exact_match.min", False, (0.3, 0.5)),
        ("slices.tables:3.exact_match.min", False, None),
    ]
    assert verdict.rules[0].reason == "Exact match 0.400 on hardness:extra is below the minimum of 0.500"
    assert verdict.rules[1].reason == "Exact match on tables:3 was not measured"


def test_too_many_vacuous_rows_break_the_gate():
    rule = only_rule(judged({"vacuous": 0.3}), max_vacuous=0.2)
    assert not rule.passed
    assert rule.reason == "Vacuous rows 0.300 is above the maximum of 0.200"


def test_a_near_miss_is_shown_with_digits_that_tell_it_from_its_bound():
    rule = only_rule(judged({"valid_sql": 0.499_99}), valid_sql=Threshold(min=0.5))
    assert rule.reason == "Valid SQL 0.499990 is below the minimum of 0.500000"


def test_a_gate_without_rules_lets_through_and_says_so():
    verdict = decide(judged({}), OPEN)
    assert verdict.passed
    assert verdict.headline == "Gate passed: it has no rules"


def test_json_round_trip():
    verdict = decide(judged({"execution_accuracy": math.nan, "vacuous": 0.0}), GateSection())
    assert Verdict.from_json(verdict.to_json()) == verdict


def test_every_figure_of_the_config_can_be_gated():
    names = list(Thresholds.model_fields)
    gate = OPEN.model_copy(update={name: Threshold(min=0.5) for name in names})
    verdict = decide(judged(dict.fromkeys(names, 1.0)), gate)
    assert [rule.name for rule in verdict.rules] == [f"{name}.min" for name in names]
    assert verdict.passed


def beside_champion(difference: float) -> Evaluation:
    """The tuned model and a champion on the same rows."""
    return judged({"execution_accuracy": 0.8}, against("champion", difference))


PASSED, FAILED = Verdict(True, []), decide(judged({}), GateSection())


@pytest.mark.parametrize(("difference", "kept"), [(0.001, False), (0.0, True), (-0.01, True)])
def test_a_tie_keeps_the_champion(difference: float, kept: bool):
    reason = why_keep_champion(beside_champion(difference), PASSED)
    assert (reason is not None) == kept
    if reason:
        assert reason.startswith("champion kept: the challenger is not better (Execution accuracy ")


def test_a_gate_that_failed_keeps_the_champion_however_good_the_challenger():
    assert not FAILED.passed
    assert str(why_keep_champion(beside_champion(0.2), FAILED)).startswith("champion kept: Gate failed: ")


def test_without_a_champion_the_gate_alone_decides():
    alone = judged({"execution_accuracy": 0.8})
    assert why_keep_champion(alone, PASSED) is None
    assert str(why_keep_champion(alone, FAILED)).startswith("nothing goes live: Gate failed: ")
