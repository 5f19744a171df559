"""The pipelines by name, without importing them: `run.py --help` and a dry run need no ZenML."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """Where a pipeline is defined, and what it does."""

    module: str
    steps: tuple[str, ...]
    summary: str


PIPELINES = {
    "train": Entry(
        "pipelines.train",
        ("ingest", "validate", "format", "finetune", "merge", "evaluate", "promote"),
        "from raw rows to a merged, judged and staged model",
    ),
}
