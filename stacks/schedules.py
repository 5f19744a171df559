"""Schedules of pipelines: made, shown, taken away. ZenML keeps them, its orchestrators carry them out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from stacks.place import Place, reachable, sources_from_here, zenml_client
from text2sql.deployment.kubernetes.cron import UTC as IN_UTC
from text2sql.deployment.kubernetes.cron import Cron, check_zone, parse_cron, to_utc
from text2sql.errors import StackError
from text2sql.inputs import PROJECT


@dataclass(frozen=True)
class Wanted:
    """A schedule as it will be made: its name, when (as the orchestrator takes it), in which zone."""

    name: str
    cron: Cron
    zone: str


def plan_schedule(pipeline: str, model: str, place: Place, text: str, zone: str | None) -> Wanted:
    """Check a schedule without asking anybody.

    Raises:
        ConfigError: no cron expression, no time zone, or one that the orchestrator cannot keep.
        StackError: the stack has no schedules.
    """
    cron = parse_cron(text)
    found = check_zone(zone or IN_UTC)
    if place.file is None or not place.file.is_remote:
        here = f"{cron.text} cd {shlex.quote(str(PROJECT))} && .venv/bin/python run.py --pipeline {pipeline}"
        raise StackError(
            f"stack {place.stack} ({place.orchestrator}) has no schedules; take --stack kubernetes, the CronJob of "
            f"k8s/, or let cron or a systemd timer run it here: {here}"
        )
    name = re.sub(r"[^a-z0-9-]+", "-", f"{pipeline}-{model}-{place.stack}".lower()).strip("-")
    if place.file.orchestrator.kind == "kubeflow":  # whose recurring runs know no time zones
        return Wanted(name, to_utc(cron, found, datetime.now(UTC)), IN_UTC)
    return Wanted(name, cron, found.key)


def make_schedule(wanted: Wanted, place: Place, start: Callable[[Any], Any]) -> list[str]:
    """Make a schedule, and take those away that it replaces; what was done, a line each.

    The new one is there before the old one goes: one that cannot be made leaves the old one as it was.

    Args:
        start: hands a pipeline with this ZenML schedule to the orchestrator.

    Raises:
        StackError: the orchestrator refuses, the new one or to take the old one away.
    """
    from zenml.config.schedule import Schedule

    with reachable(), sources_from_here():
        client = zenml_client()
        before = [schedule for schedule in _all(client) if _base(schedule.name) == wanted.name]
        name = f"{wanted.name}-{datetime.now(UTC):%Y%m%d%H%M%S%f}"
        try:
            start(Schedule(name=name, cron_expression=wanted.cron.text, catchup=False))
            made = client.get_schedule(name, allow_name_prefix_match=False)
            if place.orchestrator == "kubernetes":
                set_zone(client, made, wanted.zone, str(place.file.orchestrator.namespace) if place.file else "")
        except BaseException:
            _forget(client, name)
            raise
        for schedule in before:
            _delete(client, schedule)
    done = [f"schedule {name}: {wanted.cron.text} ({wanted.zone}) on stack {place.stack}"]
    return done + [f"schedule {schedule.name}: replaced" for schedule in before]


def _forget(client: Any, name: str) -> None:
    """What was begun of a schedule; the reason why it failed is on its way to the user, unless this fails as well."""
    for schedule in client.list_schedules(name=name).items:
        _delete(client, schedule)


def set_zone(client: Any, schedule: Any, zone: str, namespace: str) -> None:
    """ZenML has no field for a time zone, so its CronJob gets one right after it was made.

    Raises:
        StackError: the CronJob cannot be found or changed.
    """
    from kubernetes.client import ApiException, BatchV1Api
    from zenml.integrations.kubernetes.constants import KUBERNETES_CRON_JOB_METADATA_KEY

    name = schedule.run_metadata.get(KUBERNETES_CRON_JOB_METADATA_KEY)
    if not name:
        raise StackError(f"schedule {schedule.name} has no CronJob; see its events in namespace {namespace!r}")
    api = BatchV1Api(client.active_stack.orchestrator.get_kube_client())
    try:
        made = api.patch_namespaced_cron_job(name, namespace, {"spec": {"timeZone": zone}})
    except ApiException as error:
        raise StackError(f"CronJob {name} does not get time zone {zone}: {error.status} {error.reason}") from error
    if made.spec.time_zone != zone:  # API servers drop what they do not know
        raise StackError(f"CronJob {name} does not keep time zone {zone}; it takes Kubernetes 1.27 or newer")


def show_schedules() -> list[str]:
    """A line for each schedule, newest first: when, where, and how its last run ended."""
    with reachable(), sources_from_here():
        client = zenml_client()
        return [_line(client, schedule) for schedule in _all(client)] or ["nothing is scheduled"]


def _line(client: Any, schedule: Any) -> str:
    runs = client.list_pipeline_runs(schedule_id=schedule.id, sort_by="desc:created", size=1).items
    last = f"last run {runs[0].name} {runs[0].status}" if runs else "no run yet"
    return f"{schedule.name}  {schedule.cron_expression}  {'active' if schedule.active else 'paused'}  {last}"


def remove_schedule(name: str) -> str:
    """Take a schedule away, by its name or the part before the time it was made.

    Raises:
        StackError: there is none of that name, or its orchestrator cannot be asked.
    """
    with reachable(), sources_from_here():
        client = zenml_client()
        found = [schedule for schedule in _all(client) if name in (schedule.name, _base(schedule.name))]
        if not found:
            there = ", ".join(schedule.name for schedule in _all(client)) or "none"
            raise StackError(f"no schedule {name!r}; there are: {there}")
        for schedule in found:
            _delete(client, schedule)
    return "\n".join(f"schedule {schedule.name}: taken away" for schedule in found)


def _delete(client: Any, schedule: Any) -> None:
    try:
        client.delete_schedule(schedule.id)
    except Exception as error:
        if not type(error).__module__.startswith(("kubernetes.", "urllib3.")):
            raise
        why = " ".join(str(error).split())[:200]
        raise StackError(f"schedule {schedule.name} stays, for the cluster does not delete it: {why}") from error


def _all(client: Any) -> list[Any]:
    schedules: list[Any] = client.list_schedules(size=1000, sort_by="desc:created", hydrate=True).items
    return schedules


def _base(name: str) -> str:
    """Without the time at which it was made."""
    return re.sub(r"-\d{20}$", "", name)
