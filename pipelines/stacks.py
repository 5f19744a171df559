"""Where a run happens: the ZenML stack, and what stacks/<orchestrator>.yaml says of each step there."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from text2sql.errors import StackError

STACKS = Path(__file__).parents[1] / "stacks"
ACTIVE = "ZENML_ACTIVE_STACK_ID"


class StepPlace(BaseModel):
    """What one step needs on a stack."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    needs: str = ""
    """For people: CPU, memory, GPU, time."""
    settings: dict[str, Any] = {}
    """ZenML settings of the step, by their ZenML keys."""
    step_operator: str | None = None
    """A registered step operator that runs this step in place of the orchestrator."""


class StackPlan(BaseModel):
    """A file of stacks/: settings for every step, and for single ones. Unknown keys are errors (ZenML drops them)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: dict[str, Any] = {}
    steps: dict[str, StepPlace] = {}


@dataclass(frozen=True)
class Place:
    """A stack by name, its orchestrator's flavor, and the plan for that flavor."""

    stack: str
    orchestrator: str
    plan: StackPlan
    stack_id: str | None = None

    @property
    def is_here(self) -> bool:
        """Whether the steps run on this machine."""
        return self.orchestrator.startswith("local")

    def of(self, step: str) -> StepPlace:
        """Where and how one step runs."""
        return self.plan.steps.get(step, StepPlace())


def find_place(name: str | None) -> Place:
    """The named stack, or the active one.

    Raises:
        StackError: it is not registered, or ZenML's server cannot be asked.
    """
    from zenml.client import Client

    if not zenml_has_run():
        print("ZenML runs here for the first time: making its store", file=sys.stderr)  # noqa: T201
        # It would warn that no stack is active yet, and that it takes the default one.
        logging.getLogger("zenml.zen_stores.base_zen_store").setLevel(logging.ERROR)
    try:
        client = Client()
        if name is None:
            stack = client.active_stack_model
        else:
            found = client.list_stacks(name=name)
            if not found.items:
                registered = ", ".join(sorted(stack.name for stack in client.list_stacks(size=100).items))
                raise StackError(
                    f"no stack {name!r} is registered; there are: {registered}. Register it with "
                    f"`zenml stack register {name} …`, or name one of these"
                )
            stack = found.items[0]
    except OSError as error:  # requests' connection errors are OSErrors
        raise StackError(f"ZenML's server cannot be reached ({_brief(error)}); check `zenml status`") from error
    [orchestrator, *_] = [c for kind, found in stack.components.items() if kind == "orchestrator" for c in found]
    flavor = str(orchestrator.flavor_name)
    return Place(stack.name, flavor, read_plan(flavor), str(stack.id))


def default_place() -> Place:
    """What `find_place` will find on a machine on which ZenML has never run."""
    return Place("default", "local", read_plan("local"))


def zenml_has_run() -> bool:
    """Whether ZenML has a configuration; asking ZenML itself would make one."""
    import click

    folder = os.environ.get("ZENML_CONFIG_PATH") or click.get_app_dir("zenml")
    return (Path(folder) / "config.yaml").is_file() or "ZENML_STORE_URL" in os.environ


def read_plan(orchestrator: str) -> StackPlan:
    """stacks/<orchestrator>.yaml, or a plan without wishes.

    Raises:
        StackError: the file is wrong; every problem at once.
    """
    path = STACKS / f"{orchestrator}.yaml"
    if not path.is_file():
        return StackPlan()
    try:
        return StackPlan.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except yaml.YAMLError as error:
        raise StackError(f"{path} is not valid YAML: {_brief(error)}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        raise StackError(f"{path}: {problems}") from error


@contextmanager
def active(place: Place) -> Iterator[None]:
    """Make a stack the active one of this process alone; the stored choice stays as it is."""
    before = os.environ.get(ACTIVE)
    if place.stack_id is not None:
        os.environ[ACTIVE] = place.stack_id
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(ACTIVE, None)
        else:
            os.environ[ACTIVE] = before


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
