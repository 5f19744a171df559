"""Runs that nobody runs any more: killed, or cut off from their server. They must not look as if they ran for ever."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime, timedelta
from typing import Any

from steps.console import tell, warn

PROCESS = "process"
"""Key of a pipeline's `extra`: which process started it, for runs that are function calls in that process."""
UNDER_WAY = ("initializing", "provisioning", "running", "stopping")
LONGEST = timedelta(days=7)
"""A run of a process that cannot be looked at (another machine, a pod that is gone) counts as lost after this time."""


def this_process() -> dict[str, Any]:
    """What tells later whether this process is still there."""
    from text2sql.deployment.state import started_at

    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started_at(os.getpid()) or ""}


def reconcile(name: str, own_run: Any = None) -> list[str]:
    """Bring ZenML's record of the model's runs in line with what is so.

    Args:
        name: of the model; its runs carry it as a tag.
        own_run: id of the run that asks.

    Returns:
        The names of the runs that were under way and are not.
    """
    from zenml.client import Client
    from zenml.orchestrators import publish_utils

    ended = []
    for run in Client().list_pipeline_runs(tags=[name], in_progress=True, size=100, hydrate=True).items:
        if run.id == own_run or str(run.status) not in UNDER_WAY:
            continue
        if not _is_lost(run):
            continue
        for step in run.steps.values():
            if not step.status.is_finished:
                publish_utils.publish_failed_step_run(step.id)
        if not Client().get_pipeline_run(run.id).status.is_finished:
            publish_utils.publish_failed_pipeline_run(run.id)
        tell(f"run {run.name} was cut off, and is marked as failed")
        ended.append(run.name)
    return ended


def _is_lost(run: Any) -> bool:
    orchestrators = run.stack.components.get("orchestrator", []) if run.stack else []
    if not (orchestrators and str(orchestrators[0].flavor_name).startswith("local")):
        return bool(orchestrators) and _ended_elsewhere(run)
    process = run.config.extra.get(PROCESS)
    if process and process["host"] == socket.gethostname():
        from text2sql.deployment.state import is_alive

        return not is_alive(int(process["pid"]), str(process["started"]))
    began = run.start_time or run.created
    return bool(datetime.now(UTC) - began.replace(tzinfo=UTC) > LONGEST)


def _ended_elsewhere(run: Any) -> bool:
    """The orchestrator knows, and ZenML is told: as stopped or done where that is so, and True where it failed."""
    from zenml.utils.run_utils import refresh_run_status

    try:
        refreshed = refresh_run_status(run, include_step_updates=True)
    except Exception as error:  # noqa: BLE001 - whatever an orchestrator and its cluster may raise
        warn(f"run {run.name}: its orchestrator cannot be asked ({' '.join(str(error).split())[:150]})")
        return False
    return str(refreshed.status) == "failed"
