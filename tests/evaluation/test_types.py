from __future__ import annotations

import pytest

from text2sql.evaluation.types import Evaluation, RowScore, SystemScores

ROW = RowScore(exact=False, valid=False, executed=False, vacuous=True, error="no such column: ä")
EVALUATION = Evaluation(
    systems=[SystemScores("base", {"bleu": 12.5}, ["SELECT 1"], [ROW], 1.5)],
    questions=["q"],
    contexts=["c"],
    golds=["g"],
    constructs=["select"],
    model="m",
    created="2026-11-23T00:00:00+00:00",
)


def test_json_round_trip_to_the_last_digit():
    text = EVALUATION.to_json()
    assert Evaluation.from_json(text) == EVALUATION
    assert Evaluation.from_json(text).to_json() == text


def test_a_system_by_name():
    assert EVALUATION.system("base").rows == [ROW]
    with pytest.raises(KeyError, match="tuned"):
        EVALUATION.system("tuned")
