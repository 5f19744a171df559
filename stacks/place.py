"""Where a run happens: the ZenML stack, and what its file in stacks/ says of each step there."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stacks import kubernetes
from stacks.files import LOCAL, has_file, read_stack, shipped
from stacks.nodes import check_settings, pod_of
from stacks.spec import StackFile
from text2sql.config import Settings
from text2sql.errors import StackError
from text2sql.inputs import PROJECT
from text2sql.progress import working

ACTIVE = "ZENML_ACTIVE_STACK_ID"
KINDS = {"local": "local", "kubernetes": "kubernetes", "text2sql_kubeflow": "kubeflow"}
"""Which file speaks for a stack without one of its own, by its orchestrator's flavor."""


@dataclass(frozen=True)
class Place:
    """A stack by name, its orchestrator's flavor, and its file."""

    stack: str
    orchestrator: str
    file: StackFile | None
    """None: a stack of the user's that nothing here knows; its steps get no settings."""
    stack_id: str | None = None

    @property
    def is_here(self) -> bool:
        """Whether the steps run on this machine."""
        return self.orchestrator.startswith("local")

    def needs(self, step: str) -> str:
        """For people: what a step gets there."""
        if self.file is None:
            return ""
        resources = self.file.of(step)
        parts = [f"{resources.gpus} × {resources.gpu_type or 'GPU'}" if resources.gpus else ""]
        parts += [f"{resources.cpu} cores" if resources.cpu else "", f"{resources.memory}" if resources.memory else ""]
        many = f"{resources.nodes} nodes of " if resources.nodes > 1 else ""
        return "; ".join(part for part in (many + ", ".join(filter(None, parts)), resources.needs) if part)

    def pipeline_options(self) -> dict[str, Any]:
        """ZenML settings of the whole pipeline."""
        if self.file is None or not self.file.is_remote:
            return {}
        if self.file.orchestrator.kind == "kubernetes":
            orchestrator = kubernetes.pipeline_settings(self.file)
        else:
            whole = self.file.model_dump(mode="json", exclude={"steps", "defaults"}, exclude_unset=True)
            orchestrator = {"stack": whole}
        return {"settings": {"orchestrator": orchestrator, "docker": docker(str(self.file.image))}}

    def check(self, steps: Sequence[str], settings: Settings) -> None:
        """Raises StackError where these settings cannot work there."""
        if self.file is not None:
            check_settings(self.file, steps, settings)

    def step_options(self, step: str) -> dict[str, Any]:
        """ZenML settings of one step."""
        if self.file is None or not self.file.is_remote:
            return {}
        resources = pod_of(self.file, step)
        if self.file.orchestrator.kind == "kubernetes":
            orchestrator = kubernetes.step_settings(self.file, resources)
        else:
            orchestrator = {"resources": resources.model_dump(mode="json", exclude_unset=True)}
        settings: dict[str, Any] = {"orchestrator": orchestrator}
        if resources.image:
            settings["docker"] = docker(resources.image)
        retry = {"retry": {"max_retries": resources.retries}} if resources.retries else {}
        return {"settings": settings, **retry}


def docker(image: str) -> dict[str, Any]:
    """ZenML's DockerSettings for an image that was built before, with the code in it."""
    return {
        "parent_image": image,
        "skip_build": True,
        "allow_download_from_artifact_store": False,
        "allow_download_from_code_repository": False,
    }


def find_place(name: str | None) -> Place:
    """The named stack, or the active one.

    Raises:
        StackError: it is not registered, its file is wrong, or ZenML's server cannot be asked.
    """
    with reachable():
        client = zenml_client()
        stack = client.active_stack_model if name is None else _registered(client, name)
    [orchestrator, *_] = [c for kind, found in stack.components.items() if kind == "orchestrator" for c in found]
    flavor = str(orchestrator.flavor_name)
    return Place(stack.name, flavor, _file_of(stack.name, flavor), str(stack.id))


def planned_place(name: str | None) -> Place:
    """Where a run would happen: what the stack's file says, registered or not; ZenML is asked about others alone.

    Raises:
        StackError: nobody knows the stack, or its file is wrong.
    """
    if not (has_file(name) if name else not zenml_has_run()):
        return find_place(name)
    file = read_stack(name or "local")
    flavor = next(flavor for flavor, kind in KINDS.items() if kind == file.orchestrator.kind)
    return Place(name or LOCAL, flavor, file)


def zenml_has_run() -> bool:
    """Whether ZenML has a configuration; asking ZenML itself would make one."""
    import click

    folder = os.environ.get("ZENML_CONFIG_PATH") or click.get_app_dir("zenml")
    return (Path(folder) / "config.yaml").is_file() or "ZENML_STORE_URL" in os.environ


def zenml_client() -> Any:
    """ZenML's client, with its store open; where it has never run, that makes the store, and takes a while."""
    is_new = not zenml_has_run()
    if is_new:
        print("ZenML runs here for the first time: making its store, for half a minute", file=sys.stderr)  # noqa: T201
    with working("making ZenML's store" if is_new else "starting ZenML"):
        from zenml.client import Client

        if is_new:  # it would warn that no stack is active yet, and that it takes the default one
            logging.getLogger("zenml.zen_stores.base_zen_store").setLevel(logging.ERROR)
        client = Client()
        _ = client.zen_store  # made at its first use, which is to be here, where the wait is told of
    return client


@contextmanager
def reachable() -> Iterator[None]:
    """Raises StackError where ZenML's server cannot be asked."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # requests' errors are OSErrors; ZenML wraps some of them
        lost = server_lost(error) or server_lost(error.__cause__)
        if lost is None:
            raise
        raise lost from error


def server_lost(error: BaseException | None) -> StackError | None:
    """What to tell of a request to ZenML's server that came to nothing; steps ask others by the same library."""
    import requests

    if not isinstance(error, requests.ConnectionError | requests.Timeout) or error.request is None:
        return None
    from zenml.config.global_config import GlobalConfiguration

    if not str(error.request.url).startswith(GlobalConfiguration().store_configuration.url):
        return None
    why = " ".join(str(error).split())[:200]
    return StackError(f"ZenML's server cannot be reached ({why}); check `zenml status`")


@contextmanager
def sources_from_here() -> Iterator[None]:
    """Steps and flavors are named from the project's root, whatever program asks: a part of a step's cache key."""
    from zenml.constants import ENV_ZENML_CUSTOM_SOURCE_ROOT
    from zenml.utils import source_utils

    source_utils.set_custom_source_root(str(PROJECT))
    try:
        yield
    finally:
        source_utils.set_custom_source_root(os.environ.get(ENV_ZENML_CUSTOM_SOURCE_ROOT))


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


def _registered(client: Any, name: str) -> Any:
    found = client.list_stacks(name=name)
    if found.items:
        return found.items[0]
    if has_file(name):
        raise StackError(
            f"stack {name!r} is not registered; do it with `python run.py --pipeline register-stack --stack {name}`"
        )
    registered = ", ".join(sorted(stack.name for stack in client.list_stacks(size=100).items))
    raise StackError(
        f"no stack {name!r} is registered; there are: {registered}. stacks/ has a file for: {', '.join(shipped())}"
    )


def _file_of(stack: str, flavor: str) -> StackFile | None:
    """The stack's own file, else the one that is named after the kind of its orchestrator."""
    if has_file(stack):
        return read_stack(stack)
    kind = KINDS.get(flavor)
    return read_stack(kind) if kind and has_file(kind) else None
