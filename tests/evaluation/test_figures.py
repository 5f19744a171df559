from __future__ import annotations

import math

import pytest

from text2sql.config import Thresholds
from text2sql.evaluation.figures import FIGURES, comparison_table, label
from text2sql.evaluation.types import Evaluation, SystemScores


def compared(base: dict[str, float], tuned: dict[str, float]) -> dict[str, tuple[str, str, str, bool | None]]:
    systems = [SystemScores("base", base, [], [], 1.0), SystemScores("tuned", tuned, [], [], 1.0)]
    rows = comparison_table(Evaluation([], systems, "m", "now"))
    return {row.figure.key: (row.base_text, row.tuned_text, row.difference_text, row.improved) for row in rows}


@pytest.mark.parametrize(
    ("key", "base", "tuned", "expected"),
    [
        ("execution_accuracy", 0.2, 0.85, ("20.0%", "85.0%", "+65.0 pp", True)),
        ("exact_match", 0.5, 0.25, ("50.0%", "25.0%", "−25.0 pp", False)),
        ("valid_sql", 0.5, 0.5, ("50.0%", "50.0%", "±0.0 pp", None)),
        ("bleu", 31.0, 88.25, ("31.0", "88.2", "+57.2", True)),
        ("perplexity", 3.2, 1.04, ("3.200", "1.040", "−2.160", True)),
        ("perplexity", 1.04, 3.2, ("1.040", "3.200", "+2.160", False)),
        ("vacuous", 0.01, 0.02, ("1.0%", "2.0%", "+1.0 pp", None)),
        ("execution_accuracy", math.nan, 0.85, ("–", "85.0%", "–", None)),
        ("perplexity", 3.2, math.inf, ("3.200", "–", "–", None)),
    ],
)
def test_base_beside_tuned(key: str, base: float, tuned: float, expected: tuple[str, str, str, bool | None]):
    assert compared({key: base}, {key: tuned}) == {key: expected}


def test_a_figure_of_one_side_alone_is_shown_beside_a_dash():
    assert compared({}, {"bleu": 50.0}) == {"bleu": ("–", "50.0", "–", None)}


def test_rows_come_with_the_most_telling_figure_first_and_none_for_what_nobody_measured():
    assert list(compared({"bleu": 1.0, "perplexity": 2.0}, {"execution_accuracy": 0.5})) == [
        "execution_accuracy",
        "bleu",
        "perplexity",
    ]


def test_every_figure_that_can_be_gated_has_a_name():
    assert set(Thresholds.model_fields) <= {figure.key for figure in FIGURES}


def test_label_of_an_unknown_key_is_readable():
    assert (label("rouge_l"), label("made_up_figure")) == ("ROUGE-L", "made up figure")


@pytest.mark.parametrize(
    ("key", "value", "fill"), [("bleu", 50.0, 0.5), ("valid_sql", 1.2, 1.0), ("perplexity", 1.0, None)]
)
def test_fill_of_a_bar(key: str, value: float, fill: float | None):
    figure = next(figure for figure in FIGURES if figure.key == key)
    assert figure.fill(value) == fill
