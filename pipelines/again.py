"""Retraining from the command line: quietly over where nothing is new, else a run, and what came of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pipelines.launch import Finished, launch
from text2sql.errors import GATE_FAILED

if TYPE_CHECKING:
    from stacks.place import Place
    from text2sql.config import Settings


def retrain(settings: Settings, place: Place, cache: bool) -> int:
    """The exit code: 0 also where the champion is kept, which is no failure of a scheduled run.

    3: the gate did not pass, and there is no champion that could be kept.
    """
    if place.is_here:
        from stacks.place import active, sources_from_here
        from steps.detect_changes import find_changes

        with active(place), sources_from_here():
            changes = find_changes(settings)
        if cache and not changes.changed:
            _print(changes.line)
            return 0
        settings = changes.settings  # what was looked at is what is trained on
    else:
        from text2sql.fingerprint import pin_hub

        settings = pin_hub(settings)  # files are looked at over there
    finished = launch("retrain", settings, place, cache)
    if str(finished.run.status) == "stopped":
        _print(f"{finished.name}: nothing new, ended before anything was trained")
        return 0
    return _tell(finished, settings)


def _tell(finished: Finished, settings: Settings) -> int:
    from pipelines.outcome import show, write_results

    outcome = write_results(finished, settings)
    show(outcome, finished)
    figures: Any = finished.load("deploy_better", "outcome").figures
    if figures["deployed"]:
        _print(f"{finished.model_version} is live at {figures['address']}")
        return 0
    _print(str(figures["why"]))
    return 0 if outcome.verdict.passed or outcome.evaluation.find("champion") else GATE_FAILED


def _print(line: str) -> None:
    print(line, file=sys.stdout, flush=True)  # noqa: T201
