"""Rows as ZenML artifacts: Arrow files, the first rows as a table, counts as metadata."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import ClassVar

from datasets import Dataset, DatasetDict  # at import: ZenML finds a materializer by its types

from materializers.base import Metadata, PageMaterializer
from materializers.html import Table, page
from materializers.transfer import receive_folder, send_folder

SHOWN = 10
"""Rows of each split on the page."""
SHARD_BYTES = 500_000_000
"""Of one Arrow file, about."""
HASHED_ROWS = 10_000
"""Rows that are turned into Python values at a time."""


class DatasetMaterializer(PageMaterializer):
    """`datasets.Dataset` and `DatasetDict`, as `save_to_disk` writes them."""

    ASSOCIATED_TYPES: ClassVar = (Dataset, DatasetDict)
    SKIP_REGISTRATION: ClassVar[bool] = False

    def load(self, data_type: type[Dataset] | type[DatasetDict]) -> Dataset | DatasetDict:  # noqa: ARG002
        """Whichever of the two was saved."""
        from datasets import load_from_disk

        folder = f"{self.uri}/rows"
        if Path(folder).is_dir():
            return load_from_disk(folder)  # memory-mapped: no row is read before it is asked for
        # Rows are mapped from these files for as long as the step runs; ZenML deletes the folder after it.
        with self.get_temporary_directory(delete_at_exit=False) as local:
            receive_folder(folder, Path(local))
            return load_from_disk(local)

    def save(self, data: Dataset | DatasetDict) -> None:
        with self.get_temporary_directory(delete_at_exit=True) as local:
            # Without a number, rows that are none get no file, and what has no file cannot be loaded again.
            shards = {name: 1 + rows.data.nbytes // SHARD_BYTES for name, rows in _splits(data).items()}
            data.save_to_disk(local, num_shards=shards if isinstance(data, DatasetDict) else shards["all"])
            send_folder(Path(local), f"{self.uri}/rows")

    def render(self, data: Dataset | DatasetDict) -> str:
        splits = _splits(data)
        counts: Table = ("", ("rows", "count"), [(name, rows.num_rows) for name, rows in splits.items()])
        tables: list[Table] = [counts]
        for name, rows in splits.items():
            first = list(rows.select(range(min(SHOWN, rows.num_rows))))
            columns = [c for c in rows.column_names if any(row[c] not in (None, "", []) for row in first)]
            tables.append((f"{name}: first {len(first)}", columns, [[row[c] for c in columns] for row in first]))
        return page("Rows", tables)

    def extract_metadata(self, data: Dataset | DatasetDict) -> Metadata:
        splits = _splits(data)
        counts = {f"rows_{name}": rows.num_rows for name, rows in splits.items()} if len(splits) > 1 else {}
        columns = {name: str(kind) for rows in splits.values() for name, kind in rows.features.items()}
        return {"rows": sum(rows.num_rows for rows in splits.values()), **counts, "columns": columns}

    def compute_content_hash(self, data: Dataset | DatasetDict) -> str:
        """Over the values, not over Arrow's bytes: the same rows can lie in buffers that differ."""
        digest = hashlib.sha256()
        for name, rows in _splits(data).items():
            digest.update(json.dumps([name, rows.column_names, repr(rows.features)]).encode())
            for start in range(0, rows.num_rows, HASHED_ROWS):
                digest.update(json.dumps(rows[start : start + HASHED_ROWS], default=str).encode())
        return digest.hexdigest()


def _splits(data: Dataset | DatasetDict) -> dict[str, Dataset]:
    return dict(data) if isinstance(data, DatasetDict) else {"all": data}
