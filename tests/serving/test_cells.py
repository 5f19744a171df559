from __future__ import annotations

import csv
import datetime as dt
import decimal
import io
import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text2sql.serving.cells import MAX_CELL_CHARS, Cells, json_cell, to_cells, to_csv


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (2**53 - 1, 2**53 - 1),
        (2**53, "9007199254740992"),
        (1.5, 1.5),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        ("a\ud800b", "a?b"),
        (b"text", "text"),
        (b"\x00\xff", "x'00ff'"),
        (b"", ""),
        (memoryview(b"\x01"), "x'01'"),
        (decimal.Decimal("12.50"), 12.5),
        (decimal.Decimal("3.00"), 3),
        (decimal.Decimal("0.12345678901234567890"), "0.12345678901234567890"),
        (dt.date(2020, 1, 2), "2020-01-02"),
        (dt.datetime(2020, 1, 2, 3, tzinfo=dt.UTC), "2020-01-02T03:00:00+00:00"),
        (["a", None], '["a", null]'),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_json_cells(value: Any, cell: Any):
    assert json_cell(value) == cell
    assert type(json_cell(value)) is type(cell)


@given(
    st.lists(st.lists(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(), max_size=3))
)
def test_any_result_is_strict_json_and_comes_back(rows: list[list[Any]]):
    cells = to_cells(["a", "b", "c"], rows, False)
    assert Cells.from_dict(json.loads(json.dumps(cells.to_dict(), allow_nan=False))) == cells


def test_row_8_long_cells_and_results_are_cut_and_marked():
    long = to_cells(["a"], [["x" * (MAX_CELL_CHARS + 1)]], False)
    assert long.truncated
    assert len(long.rows[0][0]) == MAX_CELL_CHARS + 1  # its end is a sign for what is left out
    many = to_cells(["a"], [["x" * MAX_CELL_CHARS]] * 1_000, False)
    assert many.truncated
    assert 100 < len(many.rows) < 1_000
    assert not to_cells(["a"], [["x"]], False).truncated


@pytest.mark.parametrize(
    "formula",
    ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", " =HYPERLINK(A1)", "＝1+1", "=cmd|' /C'!A0", "|x"],
)  # fmt: skip
def test_row_13_a_cell_that_is_a_formula_is_neutralised_on_export(formula: str):
    text = to_csv([formula], [[formula]])
    assert list(csv.reader(io.StringIO(text, newline=""))) == [[f"'{formula}"], [f"'{formula}"]]


def test_row_13_other_cells_are_exported_as_they_are():
    row = ["-5", "+1.5e3", -5, 1.5, None, True, "a=b", 'x, "y"\nz', "it's"]
    text = to_csv("abcdefghi", [row])
    assert list(csv.reader(io.StringIO(text, newline="")))[1] == [
        "-5", "+1.5e3", "-5", "1.5", "", "True", "a=b", "x, \"y\"\nz", "it's",
    ]  # fmt: skip


@given(st.text(min_size=1, max_size=20))
def test_row_13_no_exported_text_starts_like_a_formula(text: str):
    [[cell]] = list(csv.reader(io.StringIO(to_csv([], [[text]]), newline="")))[1:] or [[""]]
    assert (
        not cell.lstrip().startswith(("=", "+", "-", "@"))
        or cell.lstrip("+-")[:1].isdigit()
        or cell[:2] in ("-.", "+.")
    )
