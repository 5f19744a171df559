from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest

from text2sql.evaluation.marks import (
    SHAPES,
    SHARES,
    Mark,
    axis_svg,
    bars_svg,
    key_svg,
    scale_around_zero,
    styles,
    whiskers_svg,
)

HOSTILE = "</title><script>alert(1)</script>\u202e"


def drawn(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - made by us, just above


def test_systems_of_a_train_run_keep_their_style_and_others_take_what_is_free():
    assert styles(["base", "base_few_shot", "tuned", "champion"]) == ["base", "few-shot", "tuned", "champion"]
    assert styles(["model"]) == ["tuned"]
    assert styles(["mine", "tuned"]) == ["champion", "tuned"]


@pytest.mark.parametrize("count", [1, 4, 6])
def test_up_to_six_systems_look_different(count: int):
    assert len(set(styles([f"model {i}" for i in range(count)]))) == count


def test_any_number_of_systems_has_styles():
    assert set(styles(["base", "base_few_shot", "tuned", "champion", *map(str, range(20))])) == set(SHAPES)
    assert styles([]) == []


def test_a_whisker_lies_at_its_value_between_its_ends():
    picture = drawn(whiskers_svg([Mark("tuned", 0.75, "told", (0.5, 0.8))], SHARES, "all"))
    [group] = picture.findall("g")
    line, *ends = group.findall("line")
    assert (line.attrib["x1"], line.attrib["x2"]) == ("50.00%", "80.00%")
    assert [end.attrib["x1"] for end in ends] == ["50.00%", "80.00%"]
    assert group.find("svg").attrib["x"] == "75.00%"
    assert (group.find("title").text, picture.attrib["aria-label"]) == ("told", "all")


@pytest.mark.parametrize(
    ("value", "interval", "groups", "lines"),
    [(None, None, 0, 0), (math.nan, None, 0, 0), (0.5, None, 1, 0), (1.5, (-1.0, 2.0), 1, 3)],
)
def test_what_is_missing_is_left_out_and_nothing_leaves_the_picture(value, interval, groups: int, lines: int):
    picture = drawn(whiskers_svg([Mark("base", value, "", interval)], SHARES, ""))
    assert (len(picture.findall("g")), len(picture.findall("g/line"))) == (groups, lines)
    places = [element.attrib[key] for element in picture.iter() for key in ("x", "x1", "x2") if key in element.attrib]
    assert all(0 <= float(place.removesuffix("%")) <= 100 for place in places)


def test_bars_are_as_long_as_their_counts():
    picture = drawn(bars_svg([Mark("base", 3, "a"), Mark("tuned", 0, "b"), Mark("champion", 4, "c")], 4, "all"))
    widths = {bar.attrib["class"]: bar.attrib["width"] for bar in picture.iter("rect")}
    assert widths == {"track": "100%", "base": "75.00%", "tuned": "0.00%", "champion": "100.00%"}


@pytest.mark.parametrize("values", [[], [0.0], [0.44, -0.01], [-0.8, -0.2], [1e-4], [0.02, 0.031], [math.inf, 0.5]])
def test_a_scale_about_zero_holds_zero_and_everything_finite(values: list[float]):
    scale = scale_around_zero(values)
    finite = [value for value in values if math.isfinite(value)]
    assert scale.low <= min([0.0, *finite])
    assert max([0.0, *finite]) <= scale.high + 1e-12
    assert scale.low < scale.high
    assert 2 <= len(scale.ticks) <= 7
    assert 0.0 in scale.ticks
    assert (scale.ticks[0], scale.ticks[-1]) == pytest.approx((scale.low, scale.high))


def test_an_axis_names_its_lines():
    texts = drawn(axis_svg(SHARES, ["a", "b", "c", "d", "e"])).findall("text")
    assert [(text.text, text.attrib["x"]) for text in texts][::2] == [("a", "0.00%"), ("c", "50.00%"), ("e", "100.00%")]


def test_hostile_names_are_text():
    for svg in (
        whiskers_svg([Mark("base", 0.5, HOSTILE)], SHARES, HOSTILE),
        bars_svg([Mark("base", 1, HOSTILE)], 1, HOSTILE),
    ):
        picture = drawn(svg)
        assert [title.text for title in picture.iter("title")] == [HOSTILE.replace("\u202e", "\\u202e")]
        assert not list(picture.iter("script"))


def test_every_style_has_a_key():
    assert len({key_svg(style) for style in SHAPES}) == len(SHAPES)
