"""A stack's file as components of a ZenML stack: created where they are missing, brought in line where they differ."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from typing import Any

from stacks.place import KINDS, reachable, sources_from_here, zenml_client
from stacks.spec import ArtifactStore, StackFile
from text2sql.errors import ConfigError, StackError

KEYS = {"aws_access_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY"}
"""Values of the ZenML secret, and the environment variables that they are read from."""
MODULES = {
    "kubernetes": ("kubernetes", "s3fs", "boto3"),
    "kubeflow": ("kfp", "kfp.kubernetes", "kubernetes", "s3fs", "boto3"),
    "local": (),
}
FLAVOR_SOURCE = "stacks.kubeflow_orchestrator.Text2SQLKubeflowFlavor"
EXAMPLE = "registry.example.com"
"""What the shipped files have where only you know what to write."""


@dataclass(frozen=True)
class Part:
    """A component of a stack as it should be."""

    kind: str
    """ZenML's type of component: orchestrator, artifact_store, …"""
    name: str
    flavor: str
    configuration: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.kind.replace('_', ' ')} {self.name} ({self.flavor})"


def parts_of(name: str, stack: StackFile) -> list[Part]:
    """The components that make the stack; ZenML's own `default` ones for what a local stack leaves out."""
    if not stack.is_remote:
        return [Part("orchestrator", "default", "local"), Part("artifact_store", "default", "local")]
    place, store = stack.orchestrator, stack.artifact_store
    if store is None or stack.container_registry is None:
        raise StackError(f"stack {name!r} lacks its artifact store or its container registry")
    flavor = next(flavor for flavor, kind in KINDS.items() if kind == place.kind)
    wanted = (
        {"kubernetes_context": place.context, "kubernetes_namespace": place.namespace, "incluster": not place.context}
        if place.kind == "kubernetes"
        else {
            "kubernetes_context": place.context,
            "kubeflow_hostname": place.host,
            "kubeflow_namespace": place.namespace,
            "user_namespace": place.user_namespace,
        }
    )
    return [
        Part("orchestrator", name, flavor, {key: value for key, value in wanted.items() if value is not None}),
        Part("artifact_store", name, "s3", _store(name, store)),
        Part("container_registry", name, "default", {"uri": stack.container_registry}),
        Part("image_builder", name, "local"),  # ZenML wants one, and never asks it: images are built before
    ]


def _store(name: str, store: ArtifactStore) -> dict[str, Any]:
    client = {"endpoint_url": store.endpoint, "region_name": store.region}
    given = {key: value for key, value in client.items() if value is not None}
    configuration: dict[str, Any] = {"path": store.uri}
    if given:
        configuration["client_kwargs"] = given
    if store.credentials == "environment":
        configuration["authentication_secret"] = secret_name(name)
    return configuration


def secret_name(name: str) -> str:
    """Of the ZenML secret with the artifact store's credentials."""
    return f"{name}-artifact-store"


def missing(stack: StackFile, server: bool) -> list[str]:
    """What must be there before the stack can be registered and used, and is not; a line each, with the remedy.

    Args:
        server: whether this machine is logged in to a ZenML server.
    """
    kind = stack.orchestrator.kind
    found = [
        f"the Python package {module.split('.')[0]} is not installed; `make install` brings it"
        for module in MODULES[kind]
        if not _is_installed(module)
    ]
    if not stack.is_remote:
        return found
    if not server:
        found.append("no ZenML server: pods cannot reach a store on this machine; start one, and `zenml login URL`")
    store = stack.artifact_store
    if store is not None and store.credentials == "environment":
        unset = [variable for variable in KEYS.values() if not os.environ.get(variable)]
        found += [f"{variable} is not set; it goes into a ZenML secret" for variable in unset]
    if problem := _context_problem(stack.orchestrator.context):
        found.append(problem)
    if kind == "kubeflow" and not (stack.orchestrator.host or stack.orchestrator.context):
        found.append("orchestrator: neither host nor context says where the KFP API is")
    images = {stack.image, *(stack.of(step).image for step in stack.steps)} - {None}
    for value in sorted(str(image) for image in images | {stack.container_registry}):
        if value.startswith(EXAMPLE):
            found.append(f"{value} is only an example; write your own registry")
    return found


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it should be in
        return False


def _context_problem(context: str | None) -> str | None:
    """Why a kubeconfig does not have the context; None where it does, or where no context is asked for."""
    if context is None or not _is_installed("kubernetes"):
        return None
    from kubernetes import config

    try:
        contexts, _ = config.list_kube_config_contexts()
    except config.ConfigException:
        return f"context {context!r}: no kubeconfig here (KUBECONFIG, ~/.kube/config)"
    names = [entry["name"] for entry in contexts]
    if context in names:
        return None
    return f"context {context!r} is not in the kubeconfig; there are: {', '.join(names) or 'none'}"


def register(name: str, stack: StackFile, dry_run: bool) -> list[str]:
    """Create or update everything; what was done, a line each. Twice in a row, the second time does nothing.

    Raises:
        ConfigError: pieces are missing, all of them told; nothing was changed.
    """
    from zenml.enums import StoreType

    with reachable(), sources_from_here():
        client = zenml_client()
        gaps = missing(stack, client.zen_store.type == StoreType.REST)
        if gaps and not dry_run:
            raise ConfigError([f"stack {name}: {gap}" for gap in gaps])
        done = Registration(client, dry_run).everything(name, stack)
    return done + [f"missing: {gap}" for gap in gaps]


class Registration:
    """One pass over a stack's parts, by way of ZenML's client."""

    def __init__(self, client: Any, dry_run: bool) -> None:
        self._client = client
        self._dry_run = dry_run

    def everything(self, name: str, stack: StackFile) -> list[str]:
        """Flavor, secret, components, stack; a line each."""
        parts = parts_of(name, stack)
        done = [self._flavor()] if stack.orchestrator.kind == "kubeflow" else []
        if stack.artifact_store is not None and stack.artifact_store.credentials == "environment":
            done.append(self._secret(secret_name(name)))
        done += [self._part(part) for part in parts]
        return [*done, self._stack(name, parts)]

    def _flavor(self) -> str:
        from zenml.enums import StackComponentType

        title = f"flavor {next(flavor for flavor, kind in KINDS.items() if kind == 'kubeflow')}"
        try:
            self._client.get_flavor_by_name_and_type(title.split()[1], StackComponentType.ORCHESTRATOR)
        except KeyError:
            if not self._dry_run:
                self._client.create_flavor(FLAVOR_SOURCE, StackComponentType.ORCHESTRATOR)
            return self._told("create", title)
        return f"{title}: as it should be"

    def _secret(self, name: str) -> str:
        values = {key: os.environ.get(variable, "") for key, variable in KEYS.items()}
        title = f"secret {name}"
        try:
            there = self._client.get_secret_by_name_and_private_status(name, private=False)
        except KeyError:
            if not self._dry_run:
                self._client.create_secret(name, values)
            return self._told("create", title)
        if there.secret_values == values:
            return f"{title}: as it should be"
        if not self._dry_run:
            self._client.update_secret(there.id, add_or_update_values=values)
        return self._told("update", title)

    def _part(self, part: Part) -> str:
        from zenml.enums import StackComponentType

        kind = StackComponentType(part.kind)
        found = self._client.list_stack_components(name=part.name, type=kind).items
        if not found:
            if not self._dry_run:
                self._client.create_stack_component(part.name, part.flavor, kind, part.configuration)
            return self._told("create", part.title)
        [there] = found
        if there.flavor_name != part.flavor:
            raise StackError(
                f"{part.title} is there with flavor {there.flavor_name}; delete it "
                f"(`zenml {part.kind.replace('_', '-')} delete {part.name}`), or rename the file"
            )
        wanted = {**dict.fromkeys(there.configuration), **part.configuration}  # None takes a key away
        if all(there.configuration.get(key) == value for key, value in wanted.items()):
            return f"{part.title}: as it should be"
        if not self._dry_run:
            self._client.update_stack_component(there.id, kind, configuration=wanted)
        return self._told("update", part.title)

    def _stack(self, name: str, parts: list[Part]) -> str:
        from zenml.enums import StackComponentType

        wanted = {StackComponentType(part.kind): part.name for part in parts}
        found = self._client.list_stacks(name=name).items
        title = f"stack {name}"
        if not found:
            if not self._dry_run:
                self._client.create_stack(name, wanted)
            return self._told("create", title)
        there = {kind: [c.name for c in components] for kind, components in found[0].components.items()}
        if there == {kind: [part] for kind, part in wanted.items()}:
            return f"{title}: as it should be"
        if not self._dry_run:
            self._client.update_stack(found[0].id, component_updates={kind: [part] for kind, part in wanted.items()})
        return self._told("update", title)

    def _told(self, verb: str, title: str) -> str:
        return f"{title}: would be {verb}d" if self._dry_run else f"{title}: {verb}d"
