"""What is live: shown, ended, or put back to the version before. None of it needs a run, or ZenML to be well."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from steps.production import mark, mark_what_serves, warn_unmarked
from text2sql.config_file import load_settings
from text2sql.deployment.targets import target_of

if TYPE_CHECKING:
    from pipelines.launch import Finished
    from text2sql.config import Settings
    from text2sql.deployment.target import Serving, Status

NOT_WELL = 1
WIDTH = 80
"""Columns of a terminal as it is opened."""
EXAMPLE = (
    '{"question": "What is the average age of singers whose country is France?", '
    '"schema_text": "CREATE TABLE singer (name TEXT, country TEXT, age INTEGER)"}'
)
"""One that the embedded default answers right; the README shows the answer."""


def act(what: str, config: Path, overrides: list[str]) -> int:
    """status, stop or rollback; the exit code."""
    settings = load_settings(config, overrides)
    target = target_of(settings)
    if what == "stop":
        target.stop(_tell)
        return 0
    if what == "rollback":
        release = target.rollback(_tell)
        _mark(settings, release.version)
        _print(f"{release.title} serves at {target.address} again")
        return 0
    status = target.status()
    _print(status_text(settings.name, status))
    mark_what_serves(settings)
    return 0 if status.current and status.current.state == "up" else NOT_WELL


def status_text(name: str, status: Status) -> str:
    """What serves where, since when, and on what grounds."""
    lines = [f"{name} at {status.address} ({status.target})"]
    if status.detail:
        lines.append(f"  {status.detail}")
    if status.current is None:
        lines.append("  nothing is deployed")
    for label, serving in (("live", status.current), ("previous", status.previous)):
        if serving is not None:
            lines += _lines(label, serving)
    return "\n".join(lines)


def _lines(label: str, serving: Serving) -> list[str]:
    from text2sql.evaluation.figures import FIGURES

    release = serving.release
    why = f" ({serving.why})" if serving.why else ""
    restarts = f", started again {serving.restarts} times" if serving.restarts else ""
    since = f"{'went live' if serving.state == 'stopped' else 'live since'} {serving.since or 'never'}"
    how = f"{serving.state}{why}, {since}, {serving.engine}{restarts}"
    figures = [f"{f.label} {f.show(release.figures[f.key])}" for f in FIGURES if f.key in release.figures]
    return [
        f"  {label:<9} version {release.version}, {how}",
        f"  {'':<9} {release.verdict} (evaluated {release.evaluated})",
        *wrap(", ".join(figures), WIDTH, initial_indent=" " * 12, subsequent_indent=" " * 12),
        f"  {'':<9} SHA-256 {release.digest}",
    ]


def curl(address: str, keys: bool) -> str:
    """A line to paste."""
    key = ' -H "Authorization: Bearer $OPENAI_API_KEY"' if keys else ""
    return f"curl {address}/generate{key} -H 'Content-Type: application/json' -d '{EXAMPLE}'"


def show_deployment(finished: Finished, settings: Settings) -> None:
    """Where it is live, and how to ask it."""
    card = finished.load("deploy", "deployment")
    _print(f"{card.name} version {card.version} is live at {card.address} ({card.verdict})")
    if card.compared is not None:
        _print(f"It gives {card.agreement:.1%} of {card.compared} answers as the evaluated model did.")
    _print(f"Ask it: {curl(card.address, settings.deploy.api_keys is not None)}")
    _print(f"Or open {card.address}/ for the page, and {card.address}/docs for the API.")


def _mark(settings: Settings, version: str) -> None:
    """The stage follows what serves. A rollback must not need ZenML, so its troubles are told and no more."""
    try:
        mark(settings, version)
    except Exception as error:  # noqa: BLE001 - ZenML's own, its store's and its server's
        warn_unmarked(f"version {version}, which serves,", error)


def _tell(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)  # noqa: T201


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201
