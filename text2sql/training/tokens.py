"""Rows as tokens, in an Arrow file that is mapped into memory: of many rows a few are Python objects at a time."""

from __future__ import annotations

import uuid
from pathlib import Path

from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from text2sql.data.batches import no_other_bars
from text2sql.data.prompt import encode_rows
from text2sql.progress import progress

IGNORED = -100
"""The label that the loss leaves out."""
FEATURES = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32")), "length": Value("int32")})
SUFFIX = ".arrow"


def tokenize(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, file: Path | None = None
) -> tuple[Dataset, int]:
    """Rows as `input_ids`, `labels` and `length`, and how many were left out for being longer than `max_length`.

    `file` keeps them on disk, and is read where it is there already: name it after all that they depend on.
    """
    if not len(rows):
        return Dataset.from_dict({name: [] for name in FEATURES}, features=FEATURES), 0

    def encoded(batch: dict[str, list[str]]) -> dict[str, list[object]]:
        found = encode_rows(tokenizer, batch["prompt"], batch["completion"])
        fitting = [row for row in found if len(row["input_ids"]) <= max_length]
        advance(len(found))
        return {
            "input_ids": [row["input_ids"] for row in fitting],
            "labels": [
                [t if wanted else IGNORED for t, wanted in zip(row["input_ids"], row["completion_mask"], strict=True)]
                for row in fitting
            ],
            "length": [len(row["input_ids"]) for row in fitting],
        }

    texts = rows.select_columns(["prompt", "completion"])
    with progress("tokenising", len(rows)) as advance, no_other_bars():
        made = texts.map(
            encoded,
            batched=True,
            remove_columns=texts.column_names,
            features=FEATURES,
            cache_file_name=str(file) if file else None,
            keep_in_memory=file is None,
            new_fingerprint=uuid.uuid4().hex,  # or the function is pickled
        )
    return made, len(rows) - len(made)
