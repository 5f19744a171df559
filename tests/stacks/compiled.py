"""Pipelines compiled for a cluster, without one and without a ZenML server: as far as what would be sent."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from pipelines import PIPELINES
from pipelines.launch import configure
from stacks import files, register
from stacks.place import Place, active, find_place, sources_from_here
from text2sql.config import Settings


@dataclass(frozen=True)
class Compiled:
    """A pipeline for a stack: ZenML's snapshot of it, and the stack."""

    snapshot: Any
    stack: Any


def register_parts(name: str, client: Any) -> Place:
    """The stack of a shipped file, in the tests' own store; what is missing for a real run does not matter here."""
    with sources_from_here(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        register.Registration(client, dry_run=False).everything(name, files.read_stack(name))
        return find_place(name)


def compile_for(place: Place, pipeline: str, settings: Settings, schedule: Any = None) -> Compiled:
    """As run.py would start it there."""
    from zenml.client import Client

    entry = PIPELINES[pipeline]
    with active(place), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        definition = getattr(importlib.import_module(entry.module), entry.function)
        ready = configure(definition, entry.steps, settings, place, schedule=schedule)
        ready.prepare(settings)
        return Compiled(ready._create_snapshot(**ready._run_args), Client().active_stack)


def last_call(compiled: Compiled, method: str) -> dict[str, Any]:
    """Arguments of the orchestrator's last call when the pipeline is submitted; the call is not made."""
    orchestrator = compiled.stack.orchestrator
    steps: dict[str, dict[str, str]] = {name: {} for name in compiled.snapshot.step_configurations}
    with mock.patch.object(type(orchestrator), method, return_value=None) as called, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        orchestrator.submit_pipeline(
            snapshot=compiled.snapshot, stack=compiled.stack, base_environment={}, step_environments=steps
        )
    named: dict[str, Any] = called.call_args.kwargs
    return named


def kfp_package(compiled: Compiled) -> tuple[dict[str, Any], dict[str, Any]]:
    """KFP's pipeline spec and its platform spec."""
    path = last_call(compiled, "_upload_and_run_pipeline")["pipeline_file_path"]
    spec, platform = yaml.safe_load_all(Path(path).read_text(encoding="utf-8"))
    return spec, platform
