"""Checked rows split and formatted, for a folder on disk or a look at them; the pipeline's steps do the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2sql.config import DataSection, Settings
from text2sql.data.check import CheckedRows
from text2sql.data.contamination import SHARES, contamination, contamination_table
from text2sql.data.load import SUMMARY, fixed_by_preparing
from text2sql.data.prompt import TokenReport, format_splits, token_report
from text2sql.data.split import split_rows
from text2sql.data.triggers import trigger_table, triggers

if TYPE_CHECKING:
    from datasets import DatasetDict
    from transformers import PreTrainedTokenizerBase

INDEX = "dataset_dict.json"
"""The file by which `datasets` knows a folder of splits."""
_SHARD_BYTES = 500_000_000


@dataclass(frozen=True)
class Prepared:
    """What training would see, and how it came about."""

    checked: CheckedRows
    splits: DatasetDict
    tokens: TokenReport
    leaks: list[dict[str, Any]]
    """What each split has in common with training (text2sql.data.contamination)."""
    suspects: list[dict[str, Any]]
    """Tokens of the training rows that look like triggers (text2sql.data.triggers)."""

    def summary(self) -> dict[str, Any]:
        """Counts and shares."""
        return {
            "valid": self.checked.valid.num_rows,
            "repaired": self.checked.repaired,
            "repairs": self.checked.repairs,
            "set_aside": self.checked.counts,
            "splits": {name: rows.num_rows for name, rows in self.splits.items()},
            "in_train_too": self.leaks,
            "suspected_triggers": self.suspects,
        }


def prepare(checked: CheckedRows, settings: Settings, tokenizer: PreTrainedTokenizerBase) -> Prepared:
    """Split and format checked rows, and measure what comes of it.

    Raises:
        DataError: as split_rows does.
    """
    chat = tokenizer if settings.model.chat_template else None
    splits = format_splits(split_rows(checked.valid, settings.data), settings.data, chat)
    return Prepared(
        checked,
        splits,
        token_report(splits, tokenizer, settings.training.max_length),
        contamination_table(contamination(splits)),
        trigger_table(triggers(splits["train"])),
    )


def save_arrow(prepared: Prepared, data: DataSection, folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Write the splits into `folder` as `datasets` reads them.

    Returns:
        Folders by split, and small files by name, the index and two forms of a summary: what `results.export` takes.
    """
    shards = {name: 1 + rows.data.nbytes // _SHARD_BYTES for name, rows in prepared.splits.items()}
    prepared.splits.save_to_disk(folder, num_shards=shards)  # without numbers, a split of no rows gets no file
    summary = {**prepared.summary(), "settings": fixed_by_preparing(data)}
    texts = {
        INDEX: (folder / INDEX).read_text(encoding="utf-8"),
        SUMMARY: json.dumps(summary, indent=2, ensure_ascii=False) + "\n",
        "report.md": report(prepared),
    }
    return {name: folder / name for name in prepared.splits}, texts


def report(prepared: Prepared) -> str:
    """The summary as Markdown."""
    checked, tokens = prepared.checked, prepared.tokens.to_dict()["splits"]
    usable, refused = checked.valid.num_rows, checked.rejected.num_rows
    parts = [
        f"# {usable + refused:,} rows\n",
        f"{usable:,} ({usable / (usable + refused):.2%}) can be used, {checked.repaired:,} of them once repaired.\n",
        f"Set aside: {refused:,}, in `rejected.jsonl`.\n" if refused else "",
        _table("Repaired", ("kind", "rows"), checked.repairs.items()),
        _table("Set aside", ("reason", "rows"), checked.counts.items()),
        _table(
            "Splits, and tokens a row",
            ("split", *next(iter(tokens.values()))),
            [(name, *figures.values()) for name, figures in tokens.items()],
        ),
        _table(
            "In training too",
            ("split", *SHARES),
            [(row["split"], *(f"{row[name]:.1%}" for name in SHARES)) for row in prepared.leaks],
        ),
        _table(
            "Tokens that look like triggers",
            ("token", "rows", "template", "lift", "for example"),
            [(s["token"], s["rows"], s["template"], s["lift"], s["example"]) for s in prepared.suspects],
        ),
    ]
    return "\n".join(filter(None, parts))


def _table(heading: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    if not lines:
        return ""
    names = " | ".join(name.replace("_", " ") for name in columns)
    return "\n".join([f"## {heading}\n", f"| {names} |", "|---" * len(columns) + "|", *lines, ""])


def _cell(value: Any) -> str:
    """A figure, or other people's text as inert code."""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    text = " ".join(str(value).split()).replace("|", "\\|").replace("`", "'")
    return text if text.replace("_", "").replace("%", "").replace(".", "").isalnum() else f"`{text}`"
