"""Rows in: from the hub, from a local file, or from the built-in generator, always in the same columns.

| column      | type | what                                                                              |
|-------------|------|-----------------------------------------------------------------------------------|
| question    | text | in plain language                                                                 |
| context     | text | CREATE TABLE statements                                                           |
| answer      | text | gold SQL                                                                          |
| construct   | text | the generator's label, "" elsewhere                                               |
| row_id      | int  | position in the source                                                            |
| __problem__ | text | why a value could not be read as text ("" when all could); its column is then null |
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2sql.config import DataSection, SyntheticSection
from text2sql.data import FIELDS, SPLITS
from text2sql.data.batches import BATCH, progress
from text2sql.data.synthetic import stream_rows
from text2sql.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

PROBLEM = "__problem__"
"""Internal; text2sql.data.check reads it and takes it away. No source calls a column so."""

SYNTHETIC = "synthetic"
"""The `data.dataset_name` of the built-in generator."""

SUMMARY = "summary.json"
"""The file of a prepared folder that tells how it was made."""
_FIXED = ("subset_fraction", "train_ratio", "val_ratio", "test_ratio", "split", "schema_overlap", "seed", "realistic")
_CSV_BLOCK = 64 << 20

FORMATS = (".json", ".jsonl", ".csv", ".parquet")


def load_rows(data: DataSection) -> Dataset:
    """The configured rows, or the configured share of them, in their own order.

    Raises:
        DataError: the source is missing, unreadable or empty, or lacks a column.
    """
    import numpy as np
    from datasets import Dataset

    if data.path is not None and is_prepared(data.path):
        return _read_prepared(data.path)
    if data.path is not None:
        table, source = read_file(data.path), str(data.path)
    elif data.dataset_name == SYNTHETIC:
        table, source = _generate(data.synthetic), SYNTHETIC
    else:
        table, source = _read_hub(data), data.dataset_name
    table = _canonical(table, data, source)
    rows_used = max(1, round(table.num_rows * data.subset_fraction))
    if rows_used < table.num_rows:
        drawn = np.random.default_rng(data.seed).permutation(table.num_rows)[:rows_used]
        table = table.take(np.sort(drawn))
    return Dataset(table.combine_chunks())


def _generate(wanted: SyntheticSection) -> pa.Table:
    import pyarrow as pa

    stream, batches = stream_rows(wanted.seed, wanted.profile), []
    with progress("generating rows", wanted.rows) as advance:
        for start in range(0, wanted.rows, BATCH):
            batches.append(pa.Table.from_pylist(list(islice(stream, min(BATCH, wanted.rows - start)))))
            advance(batches[-1].num_rows)
    return pa.concat_tables(batches)


def is_prepared(path: Path) -> bool:
    """Whether `python -m text2sql prepare` wrote this folder."""
    return (path / "dataset_dict.json").is_file()


def fixed_by_preparing(data: DataSection) -> dict[str, Any]:
    """The settings that are decided once a folder is prepared, as JSON values."""
    return data.model_dump(mode="json", include=set(_FIXED))


def overruled(data: DataSection) -> list[str]:
    """Settings that a prepared folder under data.path was made with, where these ones differ and so do not count."""
    if data.path is None or not is_prepared(data.path):
        return []
    try:
        made = json.loads((data.path / SUMMARY).read_text(encoding="utf-8"))["settings"]
        now = fixed_by_preparing(data)
        return [
            f"data.{key} = {json.dumps(made[key])}, not {json.dumps(now[key])}"
            for key in _FIXED
            if made[key] != now[key]
        ]
    except (OSError, ValueError, KeyError, TypeError):  # the rows count, not the report beside them
        return []


def _read_prepared(folder: Path) -> Dataset:
    """The rows of a prepared folder in one table, each with the `split` that it is in."""
    import pyarrow as pa
    from datasets import concatenate_datasets, load_from_disk

    try:
        splits = load_from_disk(str(folder))
        parts = [rows.add_column("split", [name] * rows.num_rows) for name, rows in splits.items()]
        rows = concatenate_datasets(parts)
        rows.data.validate(full=True)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, pa.ArrowInvalid) as error:
        raise DataError(f"{folder}: not a sound prepared folder ({_first_line(error)}); prepare it again") from None
    odd = [name for name in splits if name not in SPLITS]
    missing = [name for name in (*FIELDS, "row_id") if name not in rows.column_names]
    if odd or missing:
        what = f"a split {odd[0]!r}" if odd else f"no column {missing[0]}"
        raise DataError(f"{folder}: has {what}, so it was not prepared here; name one file with rows, or prepare it")
    if not rows.num_rows:
        raise DataError(f"{folder}: no rows; prepare it again")
    return rows.remove_columns([name for name in ("prompt", "completion", "plain_prompt") if name in rows.column_names])


def read_file(path: Path) -> pa.Table:
    """Every column of a .json (array or lines), .jsonl, .csv or .parquet file.

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
        return _read_json(path)
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
        raise DataError(f"{path}: not a sound Parquet file ({_first_line(error)}); copy it again") from None


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
        raise DataError(f"{path}: not a regular CSV file ({_first_line(error)}); mend that row") from None


def _read_json(path: Path) -> pa.Table:
    import pyarrow as pa
    from pyarrow import json as arrow_json

    with path.open("rb") as file:
        array = file.read(64).lstrip()[:1] == b"["
    if array:
        return _table_of(_read_array(path))
    try:
        table = arrow_json.read_json(path)
        table.validate(full=True)  # the reader takes bytes that are not UTF-8
        return table
    except pa.ArrowInvalid:
        # Broken, or sound with values of several types in a column: the slow reader tells which, and where.
        return _table_of(_read_lines(path))


def _read_array(path: Path) -> list[Mapping[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({_first_line(error)}); mend it there") from None
    for position, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {position} is no object but {_show(row)}; write {{'question': …}} objects")
    return list(rows)


def _read_lines(path: Path) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise DataError(
                    f"{path}, line {number}: not valid JSON ({_first_line(error)}); mend or delete it"
                ) from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: no object but {_show(row)}; mend or delete it")
            rows.append(row)
    return rows


def _table_of(rows: list[Mapping[str, Any]]) -> pa.Table:
    """Rows of any types as a table; a value that is no text becomes null, and PROBLEM says what it was."""
    import pyarrow as pa

    names = dict.fromkeys(name for row in rows for name in row)
    problems = ["; ".join(_problems(row)) for row in rows]
    columns = {name: [v if isinstance(v := row.get(name), str) else None for row in rows] for name in names}
    return pa.table({**columns, PROBLEM: problems})


def _problems(row: Mapping[str, Any]) -> Iterable[str]:
    for name, value in row.items():
        if value is not None and not isinstance(value, str):
            yield f"{name} is {_show(value)}, not text"


def _read_hub(data: DataSection) -> pa.Table:
    """The train split of a data set of the hub, or all of its splits when none has that name."""
    import httpx
    from datasets import concatenate_datasets, load_dataset
    from datasets.exceptions import DatasetsError

    try:
        splits = load_dataset(data.dataset_name, revision=data.dataset_revision)
    except (DatasetsError, OSError, ValueError, httpx.HTTPError) as error:
        raise DataError(
            f"data.dataset_name = {data.dataset_name!r} cannot be loaded ({_first_line(error)}); check name and "
            f"network, set data.path to a local file, or data.dataset_name to {SYNTHETIC}"
        ) from None
    chosen = ["train"] if "train" in splits else list(splits)
    return concatenate_datasets([splits[name] for name in chosen]).flatten_indices().data.table


def _canonical(table: pa.Table, data: DataSection, source: str) -> pa.Table:
    """The columns of this module's docstring, whatever the source calls them."""
    import pyarrow as pa

    wanted = {"question": data.question_column, "context": data.context_column, "answer": data.answer_column}
    if not table.num_rows:
        raise DataError(f"{source}: no rows; give at least one")
    missing = [name for name in wanted.values() if name not in table.column_names]
    if missing:
        raise DataError(
            f"{source}: no column {', '.join(missing)} among {', '.join(map(str, table.column_names))}; "
            "set data.question_column, data.context_column and data.answer_column"
        )
    empty = pa.array([""] * table.num_rows)
    problem = table[PROBLEM] if PROBLEM in table.column_names else empty
    columns: dict[str, Any] = {}
    for name, given in wanted.items():
        column = table[given]
        if not _is_text(column.type):
            problem = pa.array([f"{given} is of type {column.type}, not text"] * table.num_rows)
            column = pa.nulls(table.num_rows)
        columns[name] = column.cast(pa.string())
    labelled = "construct" in table.column_names and _is_text(table["construct"].type)
    construct = table["construct"].cast(pa.string()).fill_null("") if labelled else empty
    row_id = pa.array(range(table.num_rows), pa.int64())
    return pa.table({**columns, "construct": construct, "row_id": row_id, PROBLEM: problem})


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def _show(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return f"{type(value).__name__} {text[:40]}{'…' if len(text) > 40 else ''}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
