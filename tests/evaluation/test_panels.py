from __future__ import annotations

from dataclasses import replace

import pytest

from tests.evaluation.evaluations import WRONG, evaluation, several, system
from text2sql.evaluation.gate import RuleResult
from text2sql.evaluation.panels import (
    MAX_VALUES,
    comparison_rows,
    fault_counts,
    fault_rows,
    figure_rows,
    in_order,
    rule_text,
    slice_panels,
)
from text2sql.evaluation.types import SliceScores

STYLES = ["base", "few-shot", "tuned", "champion"]


def part(value: str, rows: int = 1, dimension: str = "construct") -> SliceScores:
    return SliceScores(dimension, value, rows, {}, {})


@pytest.mark.parametrize(
    ("values", "ordered"),
    [
        (["unknown", "extra", "hard", "easy", "medium"], ["easy", "medium", "hard", "extra", "unknown"]),
        (["unknown", "10", "3+", "2", "1"], ["1", "2", "3+", "10", "unknown"]),
        (["join", "group"], ["group", "join"]),
    ],
)
def test_values_come_as_people_expect_them(values: list[str], ordered: list[str]):
    assert [found.value for found in in_order([part(value) for value in values])] == ordered


def test_other_values_come_the_most_frequent_first():
    assert [found.value for found in in_order([part("a", 1), part("b", 5), part("c", 3)])] == ["b", "c", "a"]


def test_a_panel_a_dimension_and_long_ones_last():
    slices = [part(f"construct {i}", 5) for i in range(30)] + [part("easy", dimension="hardness")]
    short, long = slice_panels(replace(several(), slices=slices), STYLES)
    assert (short.dimension, short.left_out, short.overlap, short.axes) == ("hardness", 0, False, (0,))
    assert (long.dimension, long.left_out, long.overlap, long.axes) == ("construct", 6, True, (0, 12))
    assert len(long.rows) == MAX_VALUES


def test_a_slice_has_a_cell_a_system():
    panel = slice_panels(several(), STYLES)[0]
    assert [row.name for row in panel.rows] == ["hardness:easy", "hardness:hard"]
    assert [cell.text for cell in panel.rows[0].cells] == ["0.0%", "25.0%", "50.0%", "75.0%"]
    assert panel.rows[0].cells[3].interval_text == "[65.0, 85.0]"


def test_faults_are_counted_by_system_the_most_frequent_first():
    judged = several()
    assert fault_counts(judged) == {
        "invented_column": (2, 1, 1, 1),
        "wrong_filter": (2, 2, 1, 0),
        "wrong_order": (2, 2, 1, 0),
        "wrong_columns": (2, 1, 1, 1),
    }
    rare, common = (replace(WRONG, fault=fault) for fault in ("rare", "common"))
    assert list(fault_counts(evaluation([rare, common, common], [common] * 3))) == ["common", "rare"]


def test_a_fault_of_another_version_keeps_its_name():
    judged = several(names=("model",))
    rows = [replace(row, fault="made_up") for row in judged.systems[0].rows]
    [found] = fault_rows(replace(judged, systems=[system("model", rows)]), ["tuned"])
    assert (found.label, found.meaning, found.counts) == ("Made up", "", (8,))


def test_only_what_a_scale_to_100_fits_is_drawn():
    drawn = {line.row.figure.key: line.picture is not None for line in figure_rows(several(), STYLES)}
    assert [key for key, there in drawn.items() if not there] == ["perplexity", "vacuous"]


@pytest.mark.parametrize(
    ("interval", "better"), [((0.01, 0.2), True), ((-0.2, -0.01), False), ((-0.1, 0.1), None), ((0.0, 0.1), None)]
)
def test_better_is_said_only_of_an_interval_without_zero(interval: tuple[float, float], better: bool | None):
    judged = several()
    comparison = replace(judged.comparisons[0], interval=interval)
    rows, axis = comparison_rows(replace(judged, comparisons=[comparison]), STYLES)
    assert [row.better for row in rows] == [better]
    assert axis is not None


def test_systems_that_answer_alike_have_a_comparison():
    judged = several()
    same = replace(judged.comparisons[0], difference=0.0, interval=(0.0, 0.0), p_value=1.0)
    [row], _ = comparison_rows(replace(judged, comparisons=[same]), STYLES)
    assert (row.difference, row.interval, row.p_value) == ("±0.0", "[±0.0, ±0.0]", "p = 1")


def test_without_comparisons_there_is_no_axis():
    assert comparison_rows(replace(several(), comparisons=[]), STYLES) == ([], None)


@pytest.mark.parametrize(
    ("name", "interval", "text"),
    [
        ("bleu.min", (1.0, 2.0), "why; its 95% interval is [1.000, 2.000]"),
        ("bleu.min", None, "why"),
        ("beats_base", (1.0, 2.0), "why"),
    ],
)
def test_a_rule_tells_its_figures_interval(name: str, interval: tuple[float, float] | None, text: str):
    assert rule_text(RuleResult(name, 1.5, 1.0, True, "why", interval)) == text
