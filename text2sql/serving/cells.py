"""Results as JSON and CSV can carry them: no bytes, no dates, no formulas."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Cell = str | int | float | bool | None
MAX_CELL_CHARS = 10_000
MAX_CELLS_BYTES = 4_000_000
"""All cells of a result together."""
_EXACT_IN_JAVASCRIPT = 2**53
_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠\t\r|]")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Cells:
    """A result to show; `truncated` when rows, or ends of long cells, are left out."""

    columns: tuple[str, ...]
    rows: list[list[Cell]]
    truncated: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {"columns": list(self.columns), "rows": self.rows, "truncated": self.truncated}

    @classmethod
    def from_dict(cls, said: dict[str, Any]) -> Cells:
        return cls(tuple(said["columns"]), said["rows"], said["truncated"])


def to_cells(columns: Sequence[str], rows: Iterable[Sequence[Any]], truncated: bool) -> Cells:
    """Rows of a database as JSON-safe cells, at most MAX_CELLS_BYTES of them."""
    kept: list[list[Cell]] = []
    room = MAX_CELLS_BYTES
    for row in rows:
        cells = [json_cell(value) for value in row]
        room -= sum(len(cell) if isinstance(cell, str) else 8 for cell in cells)
        if room < 0:
            truncated = True
            break
        truncated = truncated or any(isinstance(cell, str) and len(cell) > MAX_CELL_CHARS for cell in cells)
        kept.append([cell[:MAX_CELL_CHARS] + "…" if _is_long(cell) else cell for cell in cells])  # type: ignore[index]
    return Cells(tuple(str(name)[:MAX_CELL_CHARS] for name in columns), kept, truncated)


def json_cell(value: Any) -> Cell:
    """A value as JSON can hold it.

    Bytes become their text, or x'…' where they are none; whole numbers that JavaScript would round become text, as do
    NaN and the infinities; dates become ISO 8601; decimals a number where that loses nothing.
    """
    if value is None or isinstance(value, bool | str):
        return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
    if isinstance(value, int):
        return value if abs(value) < _EXACT_IN_JAVASCRIPT else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, decimal.Decimal):
        return _decimal(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return _bytes(bytes(value))
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, default=str, ensure_ascii=False)
    return str(value)


def to_csv(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """RFC 4180 text; what a spreadsheet would run as a formula is marked as text with a leading apostrophe."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_MINIMAL)
    for row in (columns, *rows):
        writer.writerow(["" if cell is None else _harmless(cell) for cell in row])
    return out.getvalue()


def _harmless(cell: Cell) -> Cell:
    """Numbers stay what they are; so does text that is one."""
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return "'" + cell
    return cell


def _is_long(cell: Cell) -> bool:
    return isinstance(cell, str) and len(cell) > MAX_CELL_CHARS


def _decimal(value: decimal.Decimal) -> Cell:
    if not value.is_finite() or abs(value) >= _EXACT_IN_JAVASCRIPT:
        return str(value)
    if value == value.to_integral_value():
        return int(value)
    return float(value) if decimal.Decimal(repr(float(value))) == value else str(value)


def _bytes(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if text.isprintable() and (text or not value):
        return text
    return f"x'{value[:MAX_CELL_CHARS].hex()}'"
