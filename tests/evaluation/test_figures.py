from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.evaluation.evaluations import RIGHT, WRONG, evaluation, several, system
from text2sql.config import Thresholds
from text2sql.evaluation.figures import (
    FIGURES,
    best_rival,
    compared,
    figure_table,
    heading,
    label,
    show_comparison,
    show_difference,
    show_p,
)
from text2sql.evaluation.types import Comparison, Evaluation, Interval, SystemScores


def shown(key: str, value: float, interval: Interval | None) -> tuple[float | None, str, str]:
    scores = SystemScores("tuned", {key: value}, [], [], 1.0, {key: interval} if interval else {})
    [row] = figure_table(Evaluation([], [scores], "m", "now"))
    [cell] = row.cells
    return cell.value, cell.text, cell.interval_text


@pytest.mark.parametrize(
    ("key", "value", "interval", "expected"),
    [
        ("execution_accuracy", 0.85, (0.8, 0.9), (0.85, "85.0%", "[80.0, 90.0]")),
        ("execution_accuracy", 0.85, None, (0.85, "85.0%", "")),
        ("bleu", 88.25, (87.0, 89.5), (88.25, "88.2", "[87.0, 89.5]")),
        ("perplexity", 1.04, (1.03, 1.05), (1.04, "1.040", "[1.030, 1.050]")),
        ("perplexity", 16291.8, (99.9, 39617.4), (16291.8, "16,292", "[99.900, 39,617]")),
        ("perplexity", 1.04, (1.03, math.inf), (1.04, "1.040", "")),
        ("perplexity", math.inf, (1.0, math.inf), (None, "–", "")),
        ("valid_sql", math.nan, (0.0, 1.0), (None, "–", "")),
    ],
)
def test_a_figure_and_its_interval(key: str, value: float, interval: Interval | None, expected: tuple):
    assert shown(key, value, interval) == expected


def test_a_column_a_system_and_a_dash_for_what_it_lacks():
    systems = [SystemScores(name, figures, [], [], 1.0) for name, figures in (("a", {}), ("b", {"bleu": 50.0}))]
    [row] = figure_table(Evaluation([], systems, "m", "now"))
    assert [cell.text for cell in row.cells] == ["–", "50.0"]


def test_rows_come_with_the_most_telling_figure_first_and_none_for_what_nobody_measured():
    systems = [
        SystemScores(name, figures, [], [], 1.0)
        for name, figures in (("a", {"bleu": 1.0, "perplexity": 2.0}), ("b", {"execution_accuracy": 0.5}))
    ]
    rows = figure_table(Evaluation([], systems, "m", "now"))
    assert [row.figure.key for row in rows] == ["execution_accuracy", "bleu", "perplexity"]


@pytest.mark.parametrize(
    ("names", "subject", "rival"),
    [
        (("base", "base_few_shot", "tuned", "champion"), "tuned", "champion"),
        (("base", "tuned"), "tuned", "base"),
        (("model",), "model", None),
        (("base", "mine"), "mine", "base"),
        (("champion", "base"), "champion", "base"),
        (("mine", "tuned", "yours"), "tuned", "yours"),
        ((), None, None),
    ],
)
def test_who_the_evaluation_is_about_and_its_best_rival(names: tuple[str, ...], subject: str, rival: str | None):
    judged = several(names=names)
    found, other = judged.subject, best_rival(judged)
    assert (found and found.name, other and other.name) == (subject, rival)


def test_a_rival_without_a_figure_is_none():
    judged = evaluation([WRONG], [RIGHT])
    assert (
        best_rival(replace(judged, systems=[replace(system("base", [WRONG]), figures={}), judged.systems[1]])) is None
    )


def test_a_comparison_is_found_by_its_two_systems_in_their_order():
    judged = several()
    tuned, champion = judged.system("tuned"), judged.system("champion")
    assert compared(judged, tuned, champion) is judged.comparisons[2]
    assert compared(judged, champion, tuned) is None
    assert compared(judged, tuned, None) is None


@pytest.mark.parametrize(
    ("difference", "text"), [(0.65, "+65.0"), (-0.25, "−25.0"), (0.0004, "±0.0"), (0.0, "±0.0"), (-0.00051, "−0.1")]
)
def test_differences_have_a_sign(difference: float, text: str):
    assert show_difference(difference) == text


@pytest.mark.parametrize(
    ("p_value", "text"), [(1.0, "p = 1"), (0.0214, "p = 0.021"), (0.001, "p = 0.001"), (0.0002, "p < 0.001")]
)
def test_p_values(p_value: float, text: str):
    assert show_p(p_value) == text


def test_a_comparison_in_one_line():
    found = Comparison("tuned", "base", 0.044, (-0.009, 0.08), 5, 3, 0.25)
    assert show_comparison(found) == "+4.4 points [−0.9, +8.0], p = 0.25"


def test_every_figure_that_can_be_gated_has_a_name():
    assert set(Thresholds.model_fields) <= {figure.key for figure in FIGURES}


def test_names_for_people():
    assert (label("rouge_l"), label("made_up_figure")) == ("ROUGE-L", "made up figure")
    assert (heading("base_few_shot"), heading("my model")) == ("Base, few-shot", "my model")


@pytest.mark.parametrize(
    ("key", "value", "fill"), [("bleu", 50.0, 0.5), ("valid_sql", 1.2, 1.0), ("perplexity", 1.0, None)]
)
def test_fill_of_a_bar(key: str, value: float, fill: float | None):
    figure = next(figure for figure in FIGURES if figure.key == key)
    assert figure.fill(value) == fill
