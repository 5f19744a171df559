from __future__ import annotations

import math

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from text2sql.evaluation.figures import FIGURES
from text2sql.evaluation.likeness import bleu, rouge_l, rouge_l_rows
from text2sql.evaluation.statistics import (
    VERDICTS,
    RowFigures,
    compare,
    mcnemar_exact,
    mean_intervals,
    perplexity,
    resampled_sums,
)
from text2sql.evaluation.types import RowScore, TokenLoss

RESAMPLES = 400


def figures_and_intervals(rows, predictions, golds, losses, resamples):
    return RowFigures.of(rows, predictions, golds, losses).summary(resamples)


PREDICTIONS = [
    "SELECT a FROM t",
    "SELECT b, c FROM t WHERE a = 1",
    "SELECT COUNT(*) FROM u",
    "",
    "SELECT a FROM t LIMIT 3",
]
GOLDS = ["SELECT a FROM t", "SELECT b FROM t WHERE a = 2", "SELECT COUNT(*) FROM t", "SELECT 1", "SELECT a FROM t"]
ROWS = [
    RowScore(exact=True, valid=True, executed=True, vacuous=False, exact_without_values=True, adheres=True),
    RowScore(exact=False, valid=True, executed=True, vacuous=False, adheres=True),
    RowScore(exact=False, valid=False, executed=False, vacuous=True),
    RowScore(exact=False, valid=False, executed=False, vacuous=False),
    RowScore(exact=False, valid=True, executed=False, vacuous=False, exact_without_values=True, adheres=True),
]
LOSSES = [TokenLoss(1.5, 4), TokenLoss(9.25, 11), TokenLoss(0.5, 6), TokenLoss(3.0, 3), TokenLoss(2.0, 8)]


def test_every_figure_has_a_value_and_an_interval_around_it():
    figures, intervals = figures_and_intervals(ROWS, PREDICTIONS, GOLDS, LOSSES, RESAMPLES)
    assert figures.keys() == intervals.keys() == {figure.key for figure in FIGURES}
    for key, (low, high) in intervals.items():
        assert low <= figures[key] <= high, key
        assert low < high, key
    assert figures == pytest.approx(
        {
            "execution_accuracy": 0.4,
            "exact_match": 0.2,
            "exact_match_without_values": 0.4,
            "valid_sql": 0.6,
            "schema_adherence": 0.6,
            "vacuous": 0.2,
            "rouge_l": rouge_l(PREDICTIONS, GOLDS),
            "bleu": sacrebleu.corpus_bleu(PREDICTIONS, [GOLDS]).score,
            "perplexity": math.exp(16.25 / 32),
        }
    )


def test_without_losses_there_is_no_perplexity():
    figures, intervals = figures_and_intervals(ROWS, PREDICTIONS, GOLDS, None, RESAMPLES)
    assert "perplexity" not in figures.keys() | intervals.keys()


def test_a_loss_that_is_no_number_has_no_interval():
    losses = [*LOSSES[:-1], TokenLoss(math.nan, 8)]
    figures, intervals = figures_and_intervals(ROWS, PREDICTIONS, GOLDS, losses, RESAMPLES)
    assert math.isnan(figures["perplexity"])
    assert "perplexity" not in intervals
    assert intervals["bleu"] == figures_and_intervals(ROWS, PREDICTIONS, GOLDS, LOSSES, RESAMPLES)[1]["bleu"]


def test_no_rows():
    figures, intervals = figures_and_intervals([], [], [], None, RESAMPLES)
    assert set(figures.values()) == {0.0}
    assert intervals == {}


def test_one_row_is_a_point():
    figures, intervals = figures_and_intervals(ROWS[:1], PREDICTIONS[:1], GOLDS[:1], LOSSES[:1], RESAMPLES)
    for key, ends in intervals.items():
        assert ends == pytest.approx((figures[key], figures[key])), key


def test_rows_of_unequal_length():
    with pytest.raises(ValueError, match="zip"):
        figures_and_intervals(ROWS, PREDICTIONS[:4], GOLDS, None, RESAMPLES)


def test_the_same_rows_give_the_same_digits():
    assert figures_and_intervals(ROWS, PREDICTIONS, GOLDS, LOSSES, RESAMPLES) == figures_and_intervals(
        ROWS, PREDICTIONS, GOLDS, LOSSES, RESAMPLES
    )


def test_an_interval_does_not_hang_on_what_else_is_measured():
    with_losses = figures_and_intervals(ROWS, PREDICTIONS, GOLDS, LOSSES, RESAMPLES)[1]
    without = figures_and_intervals(ROWS, PREDICTIONS, GOLDS, None, RESAMPLES)[1]
    alone = mean_intervals({"": [row.executed for row in ROWS]}, RESAMPLES)[""]
    assert {key: ends for key, ends in with_losses.items() if key != "perplexity"} == without
    assert without["execution_accuracy"] == alone


def test_sums_are_exact_whatever_the_order_of_the_additions():
    """Of floats, whose sums otherwise hang on it."""
    values = np.random.default_rng(3).lognormal(0, 4, size=(2_000, 3))
    sums = resampled_sums(values, 20)
    generator = np.random.default_rng(0)
    drawn = generator.integers(2_000, size=(20, 2_000))
    for chosen, sum_ in zip(drawn, sums, strict=True):
        exact = [math.fsum(column) for column in values[chosen].T]
        assert sum_ == pytest.approx(exact, rel=1e-9)
    assert (resampled_sums(values[:, [2]], 20)[:, 0] == sums[:, 2]).all()


def test_many_rows_are_drawn_in_batches(monkeypatch: pytest.MonkeyPatch):
    columns = np.random.default_rng(4).random((50, 2))
    at_once = resampled_sums(columns, 60)
    monkeypatch.setattr("text2sql.evaluation.statistics._CELLS", 175)
    assert (resampled_sums(columns, 60) == at_once).all()


def test_a_share_has_the_width_that_theory_gives_it():
    """Normal approximation: p ± 1.96 · sqrt(p (1 - p) / n)."""
    right = [i % 10 < 7 for i in range(2_000)]
    low, high = mean_intervals({"": right}, 4_000)[""]
    half = 1.959964 * math.sqrt(0.7 * 0.3 / 2_000)
    assert (low, high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.0015)


def test_perplexity_has_the_width_that_theory_gives_it():
    """The delta method for a ratio of sums, then exp."""
    generator = np.random.default_rng(5)
    tokens = generator.integers(5, 40, size=3_000)
    totals = tokens * generator.gamma(2.0, 0.15, size=3_000)
    ratio = totals.sum() / tokens.sum()
    half = 1.959964 * np.std(totals - ratio * tokens) / tokens.mean() / math.sqrt(3_000)
    losses = [TokenLoss(float(total), int(count)) for total, count in zip(totals, tokens, strict=True)]
    rows = [ROWS[0]] * 3_000
    figures, intervals = figures_and_intervals(rows, ["SELECT 1"] * 3_000, ["SELECT 1"] * 3_000, losses, 2_000)
    assert figures["perplexity"] == pytest.approx(math.exp(ratio))
    assert intervals["perplexity"] == pytest.approx((math.exp(ratio - half), math.exp(ratio + half)), abs=0.002)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_intervals_hold_the_truth_about_as_often_as_they_say(share: float):
    """Of 400 samples of 200 rows; 95% less what the percentile bootstrap is known to lose on few rows."""
    samples = np.random.default_rng(6).random((400, 200)) < share
    intervals = mean_intervals({i: list(sample) for i, sample in enumerate(samples)}, 500)
    covered = sum(low <= share <= high for low, high in intervals.values()) / 400
    assert 0.91 <= covered <= 0.98


def test_all_right_is_a_point():
    assert mean_intervals({"": [True] * 30}, RESAMPLES) == {"": (1.0, 1.0)}
    assert mean_intervals({"": []}, RESAMPLES) == mean_intervals({}, RESAMPLES) == {}


@given(st.lists(st.booleans(), min_size=1, max_size=40))
@settings(max_examples=30, deadline=None)
def test_intervals_of_right_and_wrong_mirror_each_other(right: list[bool]):
    low, high = mean_intervals({"": right}, 100)[""]
    assert mean_intervals({"": [not one for one in right]}, 100)[""] == pytest.approx((1 - high, 1 - low))


def test_bleu_of_resampled_statistics_is_that_of_resampled_rows():
    _, intervals = figures_and_intervals(ROWS, PREDICTIONS, GOLDS, None, 50)
    drawn = np.random.default_rng(0).integers(5, size=(50, 5))
    scores = [
        sacrebleu.corpus_bleu([PREDICTIONS[i] for i in chosen], [[GOLDS[i] for i in chosen]]).score for chosen in drawn
    ]
    assert intervals["bleu"] == pytest.approx(tuple(np.percentile(scores, [2.5, 97.5])))


# By scipy's binomtest, and by hand: twice the smaller tail of a fair coin.
@pytest.mark.parametrize(
    ("only_a", "only_b", "expected"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 2**5),
        (0, 10, 2 / 2**10),
        (8, 2, 2 * (1 + 10 + 45) / 2**10),
        (7, 7, 1.0),
        (10, 25, 0.01667384780012071),
        (59, 6, 2 * 91_581_634 / 2**65),
        (3_900, 3_800, 0.25922995949924765),
    ],
)
def test_mcnemar(only_a: int, only_b: int, expected: float):
    assert mcnemar_exact(only_a, only_b) == pytest.approx(expected, rel=1e-8)
    assert mcnemar_exact(only_b, only_a) == mcnemar_exact(only_a, only_b)


def test_mcnemar_says_something_in_a_fair_world_as_seldom_as_it_should():
    tosses = np.random.default_rng(7).binomial(40, 0.5, size=2_000)
    found = sum(mcnemar_exact(int(a), 40 - int(a)) < 0.05 for a in tosses) / 2_000
    assert 0.02 < found <= 0.055


def test_compare():
    a = [True] * 60 + [True] * 20 + [False] * 5 + [False] * 15
    b = [True] * 60 + [False] * 20 + [True] * 5 + [False] * 15
    found = compare("tuned", "base", a, b, 2_000)
    assert (found.system, found.other, found.only_system, found.only_other) == ("tuned", "base", 20, 5)
    assert found.difference == pytest.approx(0.15)
    assert found.p_value == mcnemar_exact(20, 5)
    # The paired variance: (b + c) / n - d².
    half = 1.959964 * math.sqrt((0.25 - 0.15**2) / 100)
    assert found.interval == pytest.approx((0.15 - half, 0.15 + half), abs=0.015)
    back = compare("base", "tuned", b, a, 2_000)
    assert back.difference == -found.difference
    assert back.interval == pytest.approx((-found.interval[1], -found.interval[0]))


def test_compare_with_oneself_and_on_nothing():
    same = compare("a", "b", [True, False, True], [True, False, True], RESAMPLES)
    assert (same.difference, same.interval, same.p_value) == (0, (0, 0), 1)
    nothing = compare("a", "b", [], [], RESAMPLES)
    assert (nothing.difference, nothing.interval, nothing.p_value) == (0, (0, 0), 1)
    with pytest.raises(ValueError, match="zip"):
        compare("a", "b", [True], [True, False], RESAMPLES)


def test_perplexity():
    assert perplexity([TokenLoss(0.0, 5)]) == perplexity([]) == 1
    assert perplexity([TokenLoss(math.log(8), 2), TokenLoss(math.log(2), 2)]) == pytest.approx(2)
    assert perplexity([TokenLoss(1e9, 1)]) < math.inf


def test_verdicts_are_fields_of_a_score():
    assert VERDICTS.keys() < {figure.key for figure in FIGURES}
    assert all(isinstance(getattr(ROWS[0], field), bool) for field in VERDICTS.values())


def test_rouge_l_follows_its_definition():
    # The longest common subsequence of 4 words: precision 4/5, recall 4/4.
    assert rouge_l_rows(["select a from the t", ""], ["select a from t"] * 2) == pytest.approx([2 * 0.8 / 1.8, 0])
    assert rouge_l(["select a from the t", ""], ["select a from t"] * 2) == pytest.approx(0.8 / 1.8)


def test_a_runaway_answer_costs_no_time():
    assert rouge_l(["a " * 500_000], ["SELECT a FROM t"]) < 0.001
    assert bleu(["a " * 500_000], ["SELECT a FROM t"]) < 0.1
