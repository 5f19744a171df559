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
    gated: bool = False
    """Whether that is, unless it is named, the newest whose gate passed."""


PIPELINES = {
    "train": Entry(
        "pipelines.train",
        "train",
        ("ingest", "validate", "format", "finetune", "merge", "find_champion", "evaluate", "promote"),
        "from raw rows to a merged, judged and staged model",
    ),
    "retrain": Entry(
        "pipelines.retrain",
        "retrain",
        (
            "detect_changes",
            "ingest",
            "validate",
            "format",
            "finetune",
            "merge",
            "find_champion",
            "evaluate",
            "promote",
            "deploy_better",
        ),
        "a challenger trained on what is new, and live if it is better than the champion",
    ),
    "evaluate": Entry(
        "pipelines.evaluate",
        "evaluate_again",
        ("find_champion", "evaluate", "promote"),
        "a trained model version, judged again on its own frozen test rows",
        of_version=True,
    ),
    "deploy": Entry(
        "pipelines.deploy",
        "deploy_version",
        ("deploy",),
        "a model version whose gate passed, checked and taken live",
        of_version=True,
        gated=True,
    ),
}

ACTIONS = ("status", "stop")
"""What `--pipeline` does besides, without a run (pipelines.live)."""

STACK_ACTIONS = ("register-stack", "schedules")
"""… about stacks and what is scheduled on them (pipelines.manage)."""
