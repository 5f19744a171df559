from __future__ import annotations

import pytest

from text2sql.evaluation.types import (
    Comparison,
    Difference,
    Evaluation,
    ResultSample,
    RowScore,
    SliceScores,
    SystemScores,
    TestRow,
    TokenLoss,
)

SAMPLE = ResultSample(("a", "b"), ((1, None), (0.5, "ü")), total=7)
ROW = RowScore(exact=False, valid=False, executed=False, vacuous=True, error="no such column: ä")
OTHER = RowScore(exact=False, valid=True, executed=False, vacuous=False, difference=Difference("2", SAMPLE, SAMPLE))
EVALUATION = Evaluation(
    systems=[
        SystemScores(
            "base", {"bleu": 12.5}, ["SELECT 1"], [ROW, OTHER], 1.5, {"bleu": (1.0, 20.0)}, [TokenLoss(0.25, 3)]
        )
    ],
    rows=[TestRow("q", "c", "g", ("h",), "select", {"hardness": ("easy",), "tables": ("1",)})],
    comparisons=[Comparison("tuned", "base", 0.5, (0.25, 0.75), 3, 1, 0.625)],
    slices=[SliceScores("tables", "1", 1, {"base": {"bleu": 12.5}}, {"base": {"bleu": (1.5, 20.25)}})],
    model="m",
    created="2026-11-23T00:00:00+00:00",
)


def test_json_round_trip_to_the_last_digit():
    text = EVALUATION.to_json()
    assert Evaluation.from_json(text) == EVALUATION
    assert Evaluation.from_json(text).to_json() == text


def test_a_system_by_name():
    assert EVALUATION.system("base").rows == [ROW, OTHER]
    assert EVALUATION.find("tuned") is None
    with pytest.raises(KeyError, match="tuned"):
        EVALUATION.system("tuned")
