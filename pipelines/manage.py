"""Stacks and schedules from the command line: registered, shown, made, taken away. None of it runs a pipeline here."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from stacks.files import read_stack
from text2sql.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.command import Request
    from text2sql.config import Settings


def manage(what: str, stack: str | None, dry_run: bool, unschedule: str | None) -> int:
    """register-stack, schedules, unschedule, or the dashboard; the exit code."""
    if what == "register-stack":
        return _register(stack, dry_run)
    if what in ("dashboard", "stop-dashboard"):
        from pipelines.dashboard import dashboard, stop

        return dashboard() if what == "dashboard" else stop()
    from stacks.schedules import remove_schedule, show_schedules

    if unschedule is not None:
        _print(remove_schedule(unschedule))
    else:
        _print("\n".join(show_schedules()))
    return 0


def _register(name: str | None, dry_run: bool) -> int:
    from stacks.files import shipped
    from stacks.register import register

    if name is None:
        raise ConfigError([f"register-stack needs --stack; stacks/ has a file for: {', '.join(shipped())}"])
    for line in register(name, read_stack(name), dry_run):
        _print(line) if not line.startswith("missing: ") else print(line, file=sys.stderr)  # noqa: T201
    return 0


def schedule(request: Request, settings: Settings) -> int:
    """Schedule a pipeline; its inputs are looked at anew whenever it runs."""
    from pipelines import PIPELINES
    from pipelines.launch import hand_over
    from stacks.cluster import check_cluster
    from stacks.place import active, find_place, planned_place
    from stacks.schedules import make_schedule, plan_schedule

    pipeline, cron = request.pipeline, str(request.schedule)
    wanted = plan_schedule(pipeline, settings.name, planned_place(request.stack), cron, request.timezone)
    if request.dry_run:
        _print(f"schedule {wanted.name}: would be {wanted.cron.text} ({wanted.zone})")
        return 0
    place = find_place(request.stack)
    assert place.file is not None  # noqa: S101 - plan_schedule has refused such a place
    for note in check_cluster(place.file, PIPELINES[pipeline].steps, scheduled=True):
        print(f"  {note}", file=sys.stderr)  # noqa: T201
    with active(place):
        done = make_schedule(wanted, place, lambda made: hand_over(pipeline, settings, place, made, request.cache))
    _print("\n".join(done))
    _print(f"Show schedules: --pipeline schedules. Take this one away: --unschedule {wanted.name}")
    return 0


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201
