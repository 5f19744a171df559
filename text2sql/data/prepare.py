"""Rows checked, split and formatted in one go, for a folder on disk or a look at them; the steps do the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2sql.config import Settings
from text2sql.data.check import CheckedRows, check_rows
from text2sql.data.contamination import contamination, contamination_table
from text2sql.data.load import load_rows
from text2sql.data.prompt import format_splits
from text2sql.data.split import split_rows

if TYPE_CHECKING:
    from datasets import DatasetDict

INDEX = "dataset_dict.json"
"""The file by which `datasets` knows a folder of splits."""


@dataclass(frozen=True)
class Prepared:
    """What training would see, and how it came about."""

    checked: CheckedRows
    splits: DatasetDict
    leaks: list[dict[str, Any]]
    """What each split has in common with training (text2sql.data.contamination)."""

    def summary(self) -> dict[str, Any]:
        """Counts and shares, for a report."""
        return {
            "valid": self.checked.valid.num_rows,
            "repaired": self.checked.repaired,
            "repairs": self.checked.repairs,
            "set_aside": self.checked.counts,
            "splits": {name: rows.num_rows for name, rows in self.splits.items()},
            "in_train_too": self.leaks,
        }


def prepare(settings: Settings) -> Prepared:
    """Load, check, split and format the configured rows.

    Raises:
        DataError: as each of these does.
    """
    checked = check_rows(load_rows(settings.data), settings.data)
    splits = format_splits(split_rows(checked.valid, settings.data), settings.data)
    return Prepared(checked, splits, contamination_table(contamination(splits)))


def save_arrow(prepared: Prepared, folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Write the splits into `folder` as `datasets` reads them.

    Returns:
        Folders by split, and small files by name, the index and a summary: what `results.export` takes.
    """
    prepared.splits.save_to_disk(folder)
    texts = {
        INDEX: (folder / INDEX).read_text(encoding="utf-8"),
        "summary.json": json.dumps(prepared.summary(), indent=2, ensure_ascii=False) + "\n",
    }
    return {name: folder / name for name in prepared.splits}, texts
