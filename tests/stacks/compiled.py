"""Pipelines compiled for a cluster, without one and without a ZenML server: as far as what would be sent."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock
from uuid import uuid4

import yaml

from stacks import files, register
from stacks.place import Place, active, find_place
from stacks.spec import StackFile
from text2sql.config import Settings


def registered(name: str, client: Any, kind: str | None = None) -> Place:
    """The stack of a shipped file, in the tests' own store; what is missing for a real run does not matter here."""
    stack = files.read_stack(kind or name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        register.Registration(client, dry_run=False).everything(name, stack)
        return replace(find_place(name), file=stack)


def configured(pipeline: str, settings: Settings, place: Place, schedule: Any = None) -> Any:
    """A pipeline as run.py would start it on a stack."""
    import importlib

    from pipelines import PIPELINES
    from pipelines.launch import configure

    entry = PIPELINES[pipeline]
    definition = getattr(importlib.import_module(entry.module), entry.function)
    version = None
    return configure(definition, entry.steps, settings, place, True, version, schedule)


def snapshot_of(pipeline: Any, settings: Settings, place: Place) -> tuple[Any, Any]:
    """The compiled pipeline, and ZenML's stack."""
    from zenml.client import Client

    with active(place), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.prepare(settings)
        snapshot = pipeline._create_snapshot(**pipeline._run_args, skip_schedule_registration=True)
        return snapshot, Client().active_stack


@contextmanager
def nothing_is_sent(orchestrator: Any, method: str) -> Iterator[list[Any]]:
    """Calls of the orchestrator's last method are kept and not made."""
    sent: list[Any] = []

    def keep(*arguments: Any, **named: Any) -> None:
        sent.append((arguments, named))

    with mock.patch.object(type(orchestrator), method, keep):
        yield sent


def submit(snapshot: Any, stack: Any, method: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of the orchestrator's last call."""
    steps = {name: {} for name in snapshot.step_configurations}
    orchestrator = stack.orchestrator
    with nothing_is_sent(orchestrator, method) as sent, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        orchestrator.submit_pipeline(snapshot=snapshot, stack=stack, base_environment={}, step_environments=steps)
    [call] = sent
    return call


def ir(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """KFP's pipeline spec and its platform spec, from the file that its compiler wrote."""
    spec, platform = yaml.safe_load_all(open(path, encoding="utf-8"))
    return spec, platform
