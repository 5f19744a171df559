from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.evaluations import INVALID, RIGHT, WRONG, differing, evaluation, several
from text2sql.evaluation.examples import MAX_COLUMNS, MAX_ROWS, choose_examples, state, vacuous_rows
from text2sql.evaluation.types import ResultSample

KINDS = [RIGHT, INVALID, *(replace(WRONG, fault=fault) for fault in ("a", "b", "c", None))]


def test_states():
    assert list(map(state, (RIGHT, WRONG, INVALID))) == ["right", "wrong", "invalid"]


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=60), st.integers(0, 70))
def test_as_many_as_asked_in_order_half_of_them_wrong_and_every_fault_alike(rows: list, limit: int):
    judged = evaluation(rows, rows)
    shown = choose_examples(judged, limit)
    places = [judged.rows.index(example.row) for example in shown]
    assert places == sorted(set(places))
    assert len(places) == min(limit, len(rows))
    wrong = [rows[place] for place in places if not rows[place].executed]
    all_wrong = [row for row in rows if not row.executed]
    assert len(wrong) >= min(len(all_wrong), limit // 2)
    found, had = Counter(row.fault for row in wrong), Counter(row.fault for row in all_wrong)
    most = max(found.values(), default=0)
    assert all(found[fault] == count or found[fault] >= most - 1 for fault, count in had.items())


def test_equal_answers_are_one_unless_they_were_judged_apart():
    judged = several()
    judged = replace(judged, systems=[replace(one, predictions=["SELECT 1"] * 8) for one in judged.systems])
    first, *_, last = choose_examples(judged, 8)
    assert [answer.systems for answer in first.answers] == [(0,), (1, 2, 3)]
    assert [answer.systems for answer in last.answers] == [(0,), (1,), (2,), (3,)]


def test_slices_of_a_row_without_any_are_its_label():
    labelled = choose_examples(evaluation([RIGHT], [RIGHT], ["join"]), 1)[0]
    assert labelled.slice_names == ["construct:join"]
    assert choose_examples(evaluation([RIGHT], [RIGHT]), 1)[0].slice_names == []
    assert choose_examples(several(), 1)[0].slice_names == ["hardness:hard", "construct:join"]


def compare(gold: ResultSample, predicted: ResultSample) -> tuple[list[bool], list[bool], bool]:
    rows = [differing("other", predicted, gold)]
    found = choose_examples(evaluation(rows, rows), 1)[0].answers[0].difference
    assert found is not None
    return [only for _, only in found.gold.rows], [only for _, only in found.predicted.rows], found.reordered


def result(*values: object, total: int | None = None) -> ResultSample:
    return ResultSample(("a",), tuple((value,) for value in values), len(values) if total is None else total)


def test_rows_that_one_result_has_more_often_are_marked():
    assert compare(result(1, 1, 2), result(1, 3)) == ([True, False, True], [False, True], False)
    assert compare(result(1, 2), result(2, 1)) == ([False, False], [False, False], True)
    assert compare(result(1, total=9), result(2)) == ([False], [False], False)
    assert compare(result("long…", 2), result("long…", 2)) == ([False, False], [False, False], False)


def test_a_large_result_is_cut():
    wide = ResultSample(tuple("abcdefghijkl"), (tuple(range(12)),) * 20, 20)
    rows = [differing("other", wide, wide)]
    found = choose_examples(evaluation(rows, rows), 1)[0].answers[0].difference
    assert found is not None
    assert (len(found.gold.rows), len(found.gold.columns), found.gold.more_columns) == (MAX_ROWS, MAX_COLUMNS, 4)
    assert found.gold.total == 20


def test_vacuous_rows():
    rows = [RIGHT, replace(RIGHT, vacuous=True)]
    assert vacuous_rows(evaluation(rows, rows)) == [1]
