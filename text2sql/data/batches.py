"""Rows in batches, Arrow in and Arrow out: of many rows a few thousand at a time are Python objects."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from text2sql.progress import progress

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 2_000
"""Rows a batch."""
Batch = dict[str, list[Any]]
"""Columns by name."""


def read_batches(rows: Dataset, columns: Sequence[str], label: str = "") -> Iterator[Batch]:
    """Columns of successive rows as lists; with a label, under a bar."""
    rows = rows.select_columns(list(columns))
    with progress(label, rows.num_rows) if label else contextlib.nullcontext(lambda _: None) as advance:
        for start in range(0, rows.num_rows, BATCH):
            batch: Batch = rows[start : start + BATCH]
            yield batch
            advance(len(batch[columns[0]]))


def distinct(rows: Dataset, column: str) -> list[Any]:
    """The values of a column, each once, in order; Dataset.unique writes beside the files that rows are mapped from."""
    found: dict[Any, None] = {}
    for batch in read_batches(rows, (column,)):
        found |= dict.fromkeys(batch[column])
    return list(found)


def map_batches(
    rows: Dataset, function: Callable[..., dict[str, list[Any]]], label: str, positions: bool = False
) -> Dataset:
    """The rows with the columns that `function` makes of a batch, in memory as Arrow.

    Args:
        positions: give `function` the batch's positions too.
    """
    if not rows.num_rows:
        return _empty_with(rows, function({name: [] for name in rows.column_names}, *([[]] if positions else [])))
    with progress(label, rows.num_rows) as advance:

        def counted(batch: Batch, *given: Any) -> Batch:
            made = function(batch, *given)
            advance(len(next(iter(batch.values()))))
            return made

        with no_other_bars():
            # a name of its own spares pickling the function; no file appears beside those the rows are mapped from
            return rows.map(
                counted,
                batched=True,
                batch_size=BATCH,
                with_indices=positions,
                keep_in_memory=True,
                new_fingerprint=uuid.uuid4().hex,
            )


def _empty_with(rows: Dataset, names: Iterable[str]) -> Dataset:
    """No rows, with columns of text besides those of `rows`."""
    from datasets import Dataset, Features, Value

    features = Features({**dict.fromkeys(names, Value("string")), **rows.features})
    order = [*rows.column_names, *(name for name in features if name not in rows.column_names)]
    return Dataset.from_dict({name: [] for name in order}, features=Features({name: features[name] for name in order}))


@contextlib.contextmanager
def no_other_bars() -> Iterator[None]:
    """None of datasets' own bars, which would cut through ours."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


class TextRows(Sequence[tuple[Any, ...]]):
    """Texts of rows, or of those at some positions, as tuples that are made when they are asked for."""

    def __init__(self, rows: Dataset, columns: Sequence[str], positions: Sequence[int] | None = None) -> None:
        self.columns = tuple(columns)
        table = rows.select_columns(list(columns)).with_format("arrow")[:]
        self._columns = [table.column(name).combine_chunks() for name in columns]
        self._positions = range(rows.num_rows) if positions is None else positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: Any) -> Any:
        return tuple(column[self._positions[index]].as_py() for column in self._columns)
