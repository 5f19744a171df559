"""Whether two results say the same."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from text2sql.sql.execute import Result

TOLERANCE = 1e-6
"""Between numbers of which one has a fraction: relative above 1, absolute below."""
_MAX_PERMUTATIONS = 5_000

Row = tuple[Any, ...]


def same_result(
    gold: Result, predicted: Result, ordered: bool, distinct: bool = False, ties: Sequence[int] = ()
) -> bool:
    """Whether a prediction's result is the gold's.

    Columns may stand in another order and their names do not count; rows are a multiset unless `ordered`, and where
    `distinct`, a row that is repeated counts once, at its first place. Whole numbers are compared exactly, 1 and 1.0
    alike; text equals no number; NULL equals NULL. A truncated result equals nothing. `ties` are the ends of runs of
    gold rows that tie, and may stand in any order (text2sql.sql.ties).
    """
    if gold.truncated or predicted.truncated or len(gold.columns) != len(predicted.columns):
        return False
    if len(gold.rows) != len(predicted.rows) and not distinct:
        return False
    if gold.rows == predicted.rows:
        return True
    left = [tuple(map(_canonical, row)) for row in gold.rows]
    right = [tuple(map(_canonical, row)) for row in predicted.rows]
    if distinct:
        left, right = list(dict.fromkeys(left)), list(dict.fromkeys(right))
    if len(left) != len(right) or not left:
        return len(left) == len(right)
    for order in _column_orders(left, right):
        turned = right if order is None else [tuple(row[i] for i in order) for row in right]
        if ordered and ties and ties[-1] == len(left):
            runs = itertools.pairwise((0, *ties))
            same = all(_same_rows(left[start:end], turned[start:end], ordered=False) for start, end in runs)
        else:
            same = _same_rows(left, turned, ordered)
        if same:
            return True
    return False


def _canonical(cell: Any) -> Any:
    """Whole floats become ints; the rest stays."""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return int(cell)
    return cell


def _key(cell: Any) -> tuple[int, Any]:
    """Sort key over mixed types; close numbers fall side by side."""
    if cell is None:
        return (0, 0)
    if isinstance(cell, int):
        return (1, cell)
    if isinstance(cell, float):
        return (1, float(f"{cell:.5g}") if math.isfinite(cell) else cell)
    return (2, cell) if isinstance(cell, str) else (3, bytes(cell))


def _row_key(row: Row) -> tuple[list[tuple[int, Any]], list[Any]]:
    """Rounded cells first, so that rounding noise in one column does not reorder the next; then exact ones."""
    return [_key(cell) for cell in row], [0 if cell is None else cell for cell in row]


def _column_orders(left: list[Row], right: list[Row]) -> Iterator[tuple[int, ...] | None]:
    """Orders of the right columns worth trying: None (as they are), then those whose columns hold alike values."""
    yield None
    width = len(left[0])
    if width < 2:
        return
    columns_left, columns_right = list(zip(*left, strict=True)), list(zip(*right, strict=True))
    sorted_left = [[row[0] for row in sorted(zip(column), key=_row_key)] for column in columns_left]
    sorted_right = [[row[0] for row in sorted(zip(column), key=_row_key)] for column in columns_right]
    choices = [[j for j in range(width) if all(map(_same_cell, sorted_left[i], sorted_right[j]))] for i in range(width)]
    yield from itertools.islice(_assignments(choices, ()), _MAX_PERMUTATIONS)


def _assignments(choices: list[list[int]], taken: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    if len(taken) == len(choices):
        yield taken
        return
    for choice in choices[len(taken)]:
        if choice not in taken:
            yield from _assignments(choices, (*taken, choice))


def _same_rows(left: Sequence[Row], right: Sequence[Row], ordered: bool) -> bool:
    if ordered:
        return all(map(_same_row, left, right))
    if Counter(left) == Counter(right):
        return True
    return all(map(_same_row, sorted(left, key=_row_key), sorted(right, key=_row_key)))


def _same_row(left: Row, right: Row) -> bool:
    return all(map(_same_cell, left, right))


def _same_cell(left: Any, right: Any) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        return left == right
    if isinstance(left, int | float) and isinstance(right, int | float):
        return left == right or math.isclose(left, right, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return type(left) is type(right) and bool(left == right)
