"""A file of rows as a table: JSON, JSON lines, CSV, Parquet; what is wrong with a file is told with its place."""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2sql.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

PROBLEM = "__problem__"
"""Column of a table whose values were of several types: why one could not be read as text, "" where all could."""

FORMATS = (".json", ".jsonl", ".csv", ".parquet")
_CSV_BLOCK = 64 << 20


def read_file(path: Path, texts: Collection[str]) -> pa.Table:
    """Every column of a .json (array or lines), .jsonl, .csv or .parquet file.

    Args:
        texts: columns that should hold text. In JSON whose values are of several types, what else stands there becomes
            null, and the column PROBLEM says what it was; of other columns texts and lists are kept, these as JSON.

    Raises:
        DataError: with the place of the fault where the format tells it.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise DataError(f"{path}: cannot read {suffix or 'a file without ending'}; use one of {', '.join(FORMATS)}")
    try:
        if suffix == ".parquet":
            return _read_parquet(path)
        if suffix == ".csv":
            return _read_csv(path)
        return _read_json(path, texts)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; correct data.path") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the file and its rights") from None


def _read_parquet(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        table.validate(full=True)
        return table
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a sound Parquet file ({first_line(error)}); copy it again") from None


def _read_csv(path: Path) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv

    if not path.stat().st_size:
        raise DataError(f"{path}: the file is empty; give at least one row")
    parse = csv.ParseOptions(newlines_in_values=True)
    read = csv.ReadOptions(block_size=min(max(path.stat().st_size, 1 << 20), _CSV_BLOCK))  # a row fits into a block
    try:
        with csv.open_csv(path, read_options=read, parse_options=parse) as reader:
            names = reader.schema.names
        # text as it stands: 007 stays 007, and an empty cell is an empty text
        convert = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        return csv.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a regular CSV file ({first_line(error)}); mend that row") from None


def _read_json(path: Path, texts: Collection[str]) -> pa.Table:
    import pyarrow as pa
    from pyarrow import json as arrow_json

    with path.open("rb") as file:
        array = file.read(64).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["
        file.seek(0)
        nulls = not array and any(line.rstrip() == b"null" for line in file)
    if array:
        return _table_of(_read_array(path), texts)
    if nulls:  # a block that begins with one ends the process in Arrow's reader
        return _table_of(_read_lines(path), texts)
    try:
        table = arrow_json.read_json(path)
        table.validate(full=True)  # the reader takes bytes that are not UTF-8
        return table
    except pa.ArrowInvalid:
        # Broken, or sound with values of several types in a column: the slow reader tells which, and where.
        return _table_of(_read_lines(path), texts)


def _read_array(path: Path) -> list[Mapping[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({first_line(error)}); mend it there") from None
    for position, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {position} is no object but {_show(row)}; write {{'question': …}} objects")
    return list(rows)


def _read_lines(path: Path) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    with path.open(encoding="utf-8-sig") as file:  # Windows likes to begin with a byte order mark
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise DataError(
                    f"{path}, line {number}: not valid JSON ({first_line(error)}); mend or delete it"
                ) from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: no object but {_show(row)}; mend or delete it")
            rows.append(row)
    return rows


def _table_of(rows: list[Mapping[str, Any]], texts: Collection[str]) -> pa.Table:
    """Rows of any types as a table of texts."""
    import pyarrow as pa

    names = dict.fromkeys(name for row in rows for name in row)
    problems = ["; ".join(_problems(row, texts)) for row in rows]
    columns = {name: [_as_text(row.get(name), name in texts) for row in rows] for name in names}
    columns = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    return pa.table({**columns, PROBLEM: problems})


def _as_text(value: Any, strict: bool) -> str | None:
    if isinstance(value, list) and not strict:
        value = json.dumps(value, ensure_ascii=False)
    return value if isinstance(value, str) and not _is_cut(value) else None


def _problems(row: Mapping[str, Any], texts: Collection[str]) -> Iterable[str]:
    for name in row:
        if name in texts and row[name] is not None and not isinstance(row[name], str):
            yield f"{name} is {_show(row[name])}, not text"
        elif name in texts and _is_cut(row[name]):
            yield f"{name} holds half of a surrogate pair, which is no character"


def _is_cut(text: str | None) -> bool:
    """Whether a text was cut within a character, as JSON's escapes allow; no UTF-8 can hold it."""
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        return True
    return False


def _show(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return f"{type(value).__name__} {text[:40]}{'…' if len(text) > 40 else ''}"


def first_line(error: BaseException) -> str:
    """Of its message, or its type's name."""
    return str(error).strip().split("\n")[0] or type(error).__name__
