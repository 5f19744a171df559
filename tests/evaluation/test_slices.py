from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from text2sql.config import SLICE_DIMENSIONS
from text2sql.evaluation.figures import FIGURES
from text2sql.evaluation.likeness import bleu
from text2sql.evaluation.slices import _CONSTRUCTS, slice_scores, slices_of
from text2sql.evaluation.statistics import RowFigures
from text2sql.evaluation.types import RowScore, TestRow, TokenLoss

CASES = yaml.safe_load((Path(__file__).parents[1] / "fixtures/slices.yaml").read_text("utf-8"))
RIGHT = RowScore(exact=True, valid=True, executed=True, vacuous=False, exact_without_values=True, adheres=True)
RUNS = RowScore(exact=False, valid=True, executed=False, vacuous=False, adheres=True)
FAILS = RowScore(exact=False, valid=False, executed=False, vacuous=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["query"])
def test_what_a_gold_counts_as(case: dict[str, Any]):
    found = slices_of(case["query"])
    assert found["construct"] == tuple(case["constructs"])
    assert found["tables"] == (case["tables"],)


def test_every_construct_has_a_case():
    assert {construct for case in CASES for construct in case["constructs"]} == {*_CONSTRUCTS, "plain"}


def test_the_documentation_lists_them():
    text = (Path(__file__).parents[2] / "docs/metrics.md").read_text("utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("| `construct` |")]
    assert re.findall(r"`([^`]+)`", line)[1:] == [*_CONSTRUCTS, "plain"]


@pytest.mark.parametrize("gold", ["", "no SQL at all", "DROP TABLE t", "SELECT (" * 300, "SELECT a FROM t; SELECT 1"])
def test_a_gold_that_does_not_parse(gold: str):
    assert slices_of(gold, "spider") == {
        "hardness": ("unknown",),
        "construct": (),
        "tables": ("unknown",),
        "source": ("spider",),
    }


def test_dimensions_are_those_of_the_config():
    assert tuple(slices_of("SELECT 1")) == SLICE_DIMENSIONS
    assert slices_of("SELECT 1", "spider")["source"] == ("spider",)
    assert slices_of("SELECT 1")["source"] == ()


def row(**slices: tuple[str, ...]) -> TestRow:
    return TestRow("?", "CREATE TABLE t (a)", "SELECT a FROM t", slices=slices)


ROWS = [
    row(hardness=("easy",), construct=("plain",), tables=("1",), source=("b",)),
    row(hardness=("easy",), construct=("join", "order"), tables=("2",), source=("b",)),
    row(hardness=("extra",), construct=("join",), tables=("2",), source=("a",)),
    row(hardness=("easy",), construct=("join",), tables=("2",)),
]


def figures(*rows: RowScore, losses: list[TokenLoss] | None = None) -> RowFigures:
    return RowFigures.of(rows, ["SELECT a"] * len(rows), ["SELECT a FROM t"] * len(rows), losses)


def test_figures_by_slice_and_system():
    losses = [TokenLoss(float(n), 2) for n in range(4)]
    base, tuned = figures(FAILS, RUNS, RUNS, FAILS), figures(*[RIGHT] * 3, RUNS, losses=losses)
    scores = slice_scores(ROWS, {"base": base, "tuned": tuned}, 200)
    join = next(score for score in scores if score.name == "construct:join")
    assert join.rows == 3
    assert join.figures["base"] == {
        "execution_accuracy": 0,
        "exact_match": 0,
        "exact_match_without_values": 0,
        "valid_sql": 2 / 3,
        "schema_adherence": 2 / 3,
        "vacuous": 0,
        "rouge_l": pytest.approx(2 / 3),
        "bleu": pytest.approx(bleu(["SELECT a"] * 3, ["SELECT a FROM t"] * 3)),
    }
    assert join.figures["tuned"]["execution_accuracy"] == 2 / 3
    assert join.figures["tuned"]["perplexity"] == pytest.approx(math.exp((1 + 2 + 3) / 6))
    assert join.intervals["tuned"].keys() == join.figures["tuned"].keys() == {figure.key for figure in FIGURES}
    assert join.intervals["tuned"]["execution_accuracy"] == (0, 1)
    extra = next(score for score in scores if score.name == "hardness:extra")
    assert extra.intervals["tuned"]["execution_accuracy"] == (1, 1)


def test_slices_come_by_dimension_and_size():
    names = [score.name for score in slice_scores(ROWS, {"tuned": figures(*[RIGHT] * 4)}, 10)]
    assert names == [
        "hardness:easy",
        "hardness:extra",
        "construct:join",
        "construct:order",
        "construct:plain",
        "tables:2",
        "tables:1",
        "source:b",
        "source:a",
    ]


def test_no_rows_and_no_systems():
    assert slice_scores([], {"tuned": figures()}, 10) == []
    assert [score.figures for score in slice_scores(ROWS[:1], {}, 10)] == [{}] * 4
