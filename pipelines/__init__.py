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

STACK_ACTIONS = ("register-stack", "schedules", "dashboard", "stop-dashboard")
"""… about stacks, what is scheduled on them, and where their runs are shown (pipelines.manage)."""


@dataclass(frozen=True)
class Given:
    """Options of the command line that go with some pipelines only."""

    rollback: bool = False
    model_version: str | None = None
    dry_run: bool = False
    schedule: str | None = None
    timezone: str | None = None
    unschedule: str | None = None


def usage_problem(pipeline: str, given: Given) -> tuple[str, str] | None:
    """The option at fault and what is wrong with it, where options do not go together."""
    known = (*PIPELINES, *ACTIONS, *STACK_ACTIONS)
    if pipeline not in known:
        what = f"no pipeline {pipeline!r}" if pipeline else "name a pipeline"
        return "--pipeline", f"{what}; there are: {', '.join(known)}"
    entry = PIPELINES.get(pipeline)
    if given.rollback and (pipeline != "deploy" or given.model_version is not None or given.dry_run):
        return "--rollback", "it goes back to the version before, and takes nothing else"
    if given.dry_run and entry is None and pipeline != "register-stack":
        return "--dry-run", f"{pipeline} is no run"
    if given.model_version is not None and not (entry and entry.of_version):
        return "--model-version", f"{pipeline} is not about a version to be named; leave it out"
    if given.schedule is not None and pipeline != "retrain":
        return "--schedule", f"retrain is scheduled, and {pipeline} is not"
    if given.timezone is not None and given.schedule is None:
        return "--timezone", "it belongs to --schedule"
    if given.unschedule is not None and pipeline != "schedules":
        return "--unschedule", "it takes a schedule away, and goes with nothing else"
    return None
