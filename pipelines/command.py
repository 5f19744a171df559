"""One command of run.py that runs a pipeline: load the config, check all that can be checked, run, show."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import PIPELINES
from text2sql.errors import GATE_FAILED

if TYPE_CHECKING:
    from stacks.place import Place
    from text2sql.config import Settings


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    pipeline: str
    config: Path
    overrides: list[str]
    stack: str | None = None
    model_version: str | None = None
    cache: bool = True
    dry_run: bool = False
    schedule: str | None = None
    timezone: str | None = None


def carry_out(request: Request) -> int:
    """The exit code.

    Raises:
        Text2SQLError: something that its message says how to mend; no run was made unless it is a step that failed.
    """
    from text2sql.config_file import load_settings

    settings = load_settings(request.config, request.overrides)
    if request.schedule is not None:
        from pipelines.manage import schedule

        return schedule(request, settings)
    settings = _inputs(request, settings)

    from pipelines.outcome import show_plan
    from stacks.place import find_place, planned_place, reachable

    if request.dry_run:
        planned = planned_place(request.stack)
        planned.check(PIPELINES[request.pipeline].steps, settings)
        show_plan(request.pipeline, PIPELINES[request.pipeline].steps, settings, planned)
        return 0
    place = find_place(request.stack)
    _check_place(request.pipeline, settings, place)
    with reachable():
        return _run(request, settings, place)


def _inputs(request: Request, settings: Settings) -> Settings:
    """Data and base model found; deploy needs nothing but what the version's own run has left."""
    from stacks.files import has_file, read_stack
    from text2sql.inputs import resolve_inputs
    from text2sql.results import check_writable

    if request.pipeline == "deploy":
        return settings
    stack = request.stack
    elsewhere = stack is not None and has_file(stack) and read_stack(stack).is_remote
    settings = resolve_inputs(settings, not PIPELINES[request.pipeline].of_version, elsewhere)
    check_writable(settings.output_dir)
    return settings


def _check_place(pipeline: str, settings: Settings, place: Place) -> None:
    """Before anything is created: is the base model within reach, or does the cluster have what the steps ask for?"""
    if place.is_here and pipeline != "deploy":
        from text2sql.inputs import check_reachable

        check_reachable(settings.model)
    if place.file is not None and place.file.is_remote:
        from stacks.cluster import check_cluster

        for note in check_cluster(place.file, PIPELINES[pipeline].steps):
            print(f"  {note}", file=sys.stderr)  # noqa: T201


def _run(request: Request, settings: Settings, place: Place) -> int:
    from stacks.place import active, sources_from_here
    from steps.production import mark_what_serves
    from steps.reconcile import reconcile

    with active(place), sources_from_here():
        reconcile(settings.name)
        if place.is_here:
            mark_what_serves(settings)  # the champion of this run
    if request.pipeline == "retrain":
        from pipelines.again import retrain

        return retrain(settings, place, request.cache)

    from pipelines.launch import launch

    started = time.monotonic()
    finished = launch(request.pipeline, settings, place, request.cache, request.model_version)
    if request.pipeline == "deploy":
        from pipelines.live import show_deployment

        show_deployment(finished, settings)
        return 0
    from pipelines.outcome import show, write_results

    outcome = write_results(finished, settings)
    show(outcome, finished, _deploy_command(request))
    print(f"{time.monotonic() - started:.0f} s in all", file=sys.stderr)  # noqa: T201
    return 0 if outcome.verdict.passed else GATE_FAILED


def _deploy_command(request: Request) -> str:
    from text2sql.inputs import PROJECT

    config = "" if request.config.absolute() == PROJECT / "configs" / "tiny.yaml" else f" --config {request.config}"
    return f"python run.py --pipeline deploy{config}"
