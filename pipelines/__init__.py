"""The pipelines by name, without importing them: `run.py --help` and a dry run need no ZenML."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """Where a pipeline is defined, and what it does."""

    module: str
    function: str
    steps: tuple[str, ...]
    summary: str
    of_version: bool = False
    """Whether it is about a model version that is there already, rather than making one."""
    reads: tuple[str, ...] = ()
    """Artifacts that such a version must have."""
    gated: bool = False
    """Whether that is, unless it is named, the newest whose gate passed."""


PIPELINES = {
    "train": Entry(
        "pipelines.train",
        "train",
        ("ingest", "validate", "format", "finetune", "merge", "find_champion", "evaluate", "promote"),
        "from raw rows to a merged, judged and staged model",
    ),
    "evaluate": Entry(
        "pipelines.evaluate",
        "evaluate_again",
        ("find_champion", "evaluate", "promote"),
        "a trained model version, judged again on its own frozen test rows",
        of_version=True,
        reads=(
            "merged_model",
            "splits",
            "training_history",
            "validation_report",
            "token_report",
            "contamination_report",
        ),
    ),
    "deploy": Entry(
        "pipelines.deploy",
        "deploy_version",
        ("deploy",),
        "a model version whose gate passed, checked and taken live",
        of_version=True,
        reads=("merged_model", "splits"),
        gated=True,
    ),
}

ACTIONS = ("status", "stop")
"""What `--pipeline` does besides, without a run (pipelines.live)."""
