"""Rows in: from the hub, from a local file, or from the built-in generator, always in the same columns.

| column      | type  | what                                                                               |
|-------------|-------|------------------------------------------------------------------------------------|
| question    | text  | in plain language                                                                  |
| context     | text  | CREATE TABLE statements                                                            |
| answer      | text  | gold SQL                                                                           |
| construct   | text  | the generator's label, "" elsewhere                                                |
| row_id      | int   | position in the source                                                             |
| __problem__ | text  | why a value could not be read as text ("" when all could); its column is then null |

and, where the source has them:

| column      | type  | what                                                                               |
|-------------|-------|------------------------------------------------------------------------------------|
| accepted    | texts | more golds, as right as the answer; in CSV a JSON list                             |
| database    | text  | SQLite file below data.databases that the answer is for; "" for none               |
| source      | text  | what the row's figures are grouped by besides; "" for nothing                      |
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from glob import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2sql.config import DataSection, SyntheticSection
from text2sql.config.data import SYNTHETIC
from text2sql.data import FIELDS, SPLITS
from text2sql.data.batches import BATCH
from text2sql.data.formats import PROBLEM, first_line, read_file
from text2sql.data.synthetic import stream_rows
from text2sql.errors import DataError
from text2sql.hub import snapshot
from text2sql.progress import progress, working

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

logger = logging.getLogger(__name__)


SUMMARY = "summary.json"
"""The file of a prepared folder that tells how it was made."""
_FIXED = ("subset_fraction", "train_ratio", "val_ratio", "test_ratio", "split", "schema_overlap", "seed", "realistic")

_OTHERS = ("construct", "database", "source", "accepted")
"""Columns that are read where a source has them."""


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
        table, source = read_file(data.path, _texts(data)), str(data.path)
    elif data.is_generated:
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
        raise DataError(f"{folder}: not a sound prepared folder ({first_line(error)}); prepare it again") from None
    odd = [name for name in splits if name not in SPLITS]
    missing = [name for name in (*FIELDS, "row_id") if name not in rows.column_names]
    if odd or missing:
        what = f"a split {odd[0]!r}" if odd else f"no column {missing[0]}"
        raise DataError(f"{folder}: has {what}, so it was not prepared here; name one file with rows, or prepare it")
    if not rows.num_rows:
        raise DataError(f"{folder}: no rows; prepare it again")
    return rows.remove_columns([name for name in ("prompt", "completion", "plain_prompt") if name in rows.column_names])


def _read_hub(data: DataSection) -> pa.Table:
    """The train split of a data set of the hub, or all of its splits when none has that name."""
    import httpx
    from datasets import concatenate_datasets, load_dataset
    from datasets.exceptions import DatasetsError

    try:
        _fetch(data.dataset_name, data.dataset_revision)
        with working(f"reading {data.dataset_name}"):
            splits = load_dataset(data.dataset_name, revision=data.dataset_revision)
    except (DatasetsError, OSError, ValueError, httpx.HTTPError) as error:
        raise DataError(
            f"data.dataset_name = {data.dataset_name!r} cannot be loaded ({first_line(error)}); check name and "
            f"network, set data.path to a local file, or data.dataset_name to {SYNTHETIC}"
        ) from None
    chosen = ["train"] if "train" in splits else list(splits)
    return concatenate_datasets([splits[name] for name in chosen]).flatten_indices().data.table


def _fetch(name: str, revision: str | None) -> None:
    """Have a data set's files in the hub's cache before they are read; `datasets` would fetch them without a word."""
    from datasets import load_dataset_builder

    with working(f"looking for {name}"):
        builder = load_dataset_builder(name, revision=revision)
    if Path(builder.cache_dir).is_dir():  # read before
        return
    files: dict[str, list[str]] = {}
    for url in (url for urls in (builder.config.data_files or {}).values() for url in urls):
        commit, _, file = str(url).removeprefix(f"hf://datasets/{name}@").partition("/")
        if not commit.startswith("hf:"):
            files.setdefault(commit, []).append(escape(file))
    with contextlib.nullcontext() if sys.stderr.isatty() else working(f"fetching {name}"):
        for commit, wanted in files.items():
            snapshot(name, commit, wanted, kind="dataset")


def _texts(data: DataSection) -> dict[str, str]:
    """Columns that must hold text: as the source calls them, by what they are called here."""
    return {"question": data.question_column, "context": data.context_column, "answer": data.answer_column}


def _canonical(table: pa.Table, data: DataSection, source: str) -> pa.Table:
    """The columns of this module's docstring, whatever the source calls them."""
    import pyarrow as pa

    wanted = _texts(data)
    if not table.num_rows:
        raise DataError(f"{source}: no rows; give at least one")
    missing = [name for name in wanted.values() if name not in table.column_names]
    if missing:
        raise DataError(
            f"{source}: no column {', '.join(missing)} among {', '.join(map(str, table.column_names))}; "
            "set data.question_column, data.context_column and data.answer_column"
        )
    twice = [name for name in (*wanted.values(), *_OTHERS) if table.column_names.count(name) > 1]
    if twice:
        raise DataError(f"{source}: more than one column is called {twice[0]}; rename the others")
    empty = pa.array([""] * table.num_rows)
    problem = table[PROBLEM] if PROBLEM in table.column_names else empty
    columns: dict[str, Any] = {}
    for name, given in wanted.items():
        column = table[given]
        if not _is_text(column.type):
            problem = pa.array([f"{given} is of type {column.type}, not text"] * table.num_rows)
            column = pa.nulls(table.num_rows)
        columns[name] = column.cast(pa.string())
    construct = _optional_text(table, "construct")
    columns["construct"] = empty if construct is None else construct
    columns["row_id"] = pa.array(range(table.num_rows), pa.int64())
    return pa.table({**columns, PROBLEM: problem, **_optional(table, data, source)})


def _optional(table: pa.Table, data: DataSection, source: str) -> dict[str, Any]:
    """The columns that not every source has."""
    import pyarrow as pa

    found = {name: column for name in ("database", "source") if (column := _optional_text(table, name)) is not None}
    if "database" in found and data.databases is None:
        logger.warning(
            "%s: rows name databases, and are judged on generated ones; to use theirs, set data.databases to the "
            "folder that these are in",
            source,
        )
        del found["database"]
    if "accepted" in table.column_names:
        found["accepted"] = pa.array(_golds(table["accepted"].to_pylist(), source), pa.list_(pa.string()))
    return found


def _optional_text(table: pa.Table, name: str) -> pa.Array | None:
    """A column of text without nulls, if the table has one of that name."""
    import pyarrow as pa

    if name not in table.column_names or not _is_text(table[name].type):
        return None
    return table[name].cast(pa.string()).fill_null("").combine_chunks()


def _golds(values: list[Any], source: str) -> list[list[str]]:
    """Lists of texts, from lists or from JSON that holds such.

    Raises:
        DataError: one is neither.
    """
    found = []
    for position, value in enumerate(values):
        try:
            golds = json.loads(value) if isinstance(value, str) and value.strip() else value or []
        except (json.JSONDecodeError, RecursionError):
            golds = None
        if not isinstance(golds, list) or not all(isinstance(gold, str) for gold in golds):
            raise DataError(
                f"{source}: accepted of row {position} is no list of SQL texts: {str(value)[:80]!r}; mend it"
            )
        found.append(golds)
    return found


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))
