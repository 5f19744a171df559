from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest

from text2sql.evaluation.charts import BOTTOM, TOP, loss_curve_svg


def drawn(history: list[dict[str, float]]) -> ET.Element:
    """The picture, as an XML parser reads it."""
    return ET.fromstring(loss_curve_svg(history))  # noqa: S314 - made by us, just above


def lines(picture: ET.Element) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.attrib["points"].split())]
        for line in picture.iter("polyline")
    ]


def test_a_falling_loss_goes_from_the_top_left_to_the_lower_right():
    [line] = lines(drawn([{"step": 0, "loss": 2.0}, {"step": 50, "loss": 1.0}, {"step": 100, "loss": 0.0}]))
    assert line == [(0.0, TOP), (500.0, (TOP + BOTTOM) / 2), (1000.0, BOTTOM)]


def test_training_and_validation_are_two_lines_with_a_legend_and_told_in_words():
    picture = drawn([{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.0}, {"step": 20, "eval_loss": 1.5}])
    assert [len(line) for line in lines(picture)] == [2, 1]
    words = [text.text for text in picture.iter("text")]
    assert "training" in words
    assert "validation" in words
    assert picture.attrib["aria-label"] == (
        "Loss curve: training loss from 2.000 at step 10 to 1.000 at step 20; "
        "validation loss from 1.500 at step 20 to 1.500 at step 20"
    )


def test_points_tell_their_numbers_and_a_long_line_has_none():
    few = drawn([{"step": step, "loss": 1.0} for step in range(5)])
    assert next(title.text for title in few.iter("title")) == "step 0: train loss 1.0000"
    many = drawn([{"step": step, "loss": 1.0} for step in range(500)])
    assert not list(many.iter("circle"))
    assert [len(line) for line in lines(many)] == [500]


@pytest.mark.parametrize("history", [[], [{"step": 1, "learning_rate": 0.1}], [{"step": 1, "loss": math.nan}]])
def test_without_a_loss_there_is_no_picture(history: list[dict[str, float]]):
    assert loss_curve_svg(history) == ""


def test_what_is_not_finite_is_passed_over():
    rows = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": math.inf},
        {"step": 3, "loss": math.nan},
        {"step": 4, "loss": 1.0},
    ]
    assert [len(line) for line in lines(drawn(rows))] == [2]


@pytest.mark.parametrize("highest", [0.0, 1e-6, 0.03, 0.99, 1.0, 2.6, 7.4, 11.5, 430.0])
def test_any_height_has_two_to_six_grid_lines_and_stays_inside(highest: float):
    picture = drawn([{"step": 1, "loss": highest}, {"step": 2, "loss": highest / 2}])
    grid = [line for line in picture.iter("line") if "stroke-opacity" in line.attrib]
    assert 2 <= len(grid) <= 6
    assert all(TOP <= y <= BOTTOM for line in lines(picture) for _, y in line)


def test_a_single_step_is_drawn():
    assert lines(drawn([{"step": 0, "loss": 1.0}])) == [[(0.0, TOP)]]


@pytest.mark.parametrize("highest", [0.0007, 0.75, 430.0])
def test_labels_stand_where_no_point_can_be(highest: float):
    """Along y left of the plot, in a margin that the longest of them fits into; along x below it, at their own step."""
    picture = drawn([{"step": step, "loss": highest / step} for step in range(1, 31)])
    texts = list(picture.iter("text"))
    levels = [text for text in texts if float(text.attrib["x"].rstrip("%")) < 0]
    assert len(levels) == len([line for line in picture.iter("line") if "stroke-opacity" in line.attrib])
    assert {text.attrib["text-anchor"] for text in levels} == {"end"}
    margin = int(re.search(r"padding-left: (\d+)px", picture.attrib["style"])[1])
    assert margin >= 8 + 7 * max(len(text.text) for text in levels)
    steps = [text for text in texts if text.attrib["x"].endswith("%")]
    assert [text.text for text in steps] == ["step 0", "8", "15", "22", "30"]
    for text in steps[1:]:
        assert float(text.attrib["x"].rstrip("%")) == pytest.approx(100 * int(text.text) / 30, abs=0.1)
        assert float(text.attrib["y"]) > BOTTOM + 12
