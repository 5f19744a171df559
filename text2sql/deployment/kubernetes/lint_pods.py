"""Faults within a pod: fields that must agree with one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from text2sql.deployment.kubernetes.syntax import check_env, check_image, parse_quantity

Found = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class PodSpec:
    """A pod's spec, and the path at which it stands."""

    path: str
    spec: Mapping[str, Any]

    def containers(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """All of them with their paths, init containers first."""
        for kind in ("initContainers", "containers", "ephemeralContainers"):
            for container in self.spec.get(kind) or ():
                yield f"{self.path}.{kind}[{container.get('name')}]", container


def pod_problems(pod: PodSpec) -> Found:
    """Every one of them."""
    volumes = {volume.get("name") for volume in pod.spec.get("volumes") or ()}
    names = [container.get("name") for _, container in pod.containers()]
    for name in {name for name in names if names.count(name) > 1}:
        yield f"{pod.path}.containers", f"two containers are called {name}"
    for path, container in pod.containers():
        yield from _image(path, container)
        yield from _resources(path, container.get("resources") or {})
        yield from _mounts(path, container, volumes)
        yield from _ports(path, container)
        yield from _environment(path, container, pod.spec)


def _image(path: str, container: Mapping[str, Any]) -> Found:
    try:
        check_image(str(container.get("image", "")))
    except ValueError as error:
        yield f"{path}.image", str(error)


def _resources(path: str, resources: Mapping[str, Any]) -> Found:
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for name, amount in requests.items():
        limit = limits.get(name)
        if "/" in name:  # a GPU and its like: devices are not shared out
            if limit is None:
                yield (
                    f"{path}.resources.requests.{name}",
                    f"{amount} is asked for without a limit; give the same as limit",
                )
            elif _amount(limit) != _amount(amount):
                yield f"{path}.resources.requests.{name}", f"{amount} is unlike its limit {limit}; they must be equal"
        elif limit is not None and (_amount(amount) or 0) > (_amount(limit) or 0):
            yield f"{path}.resources.requests.{name}", f"{amount} is above its limit {limit}"
    for name, amount in {**requests, **limits}.items():
        found = _amount(amount)
        if "/" in name and found is not None and found % 1:
            yield f"{path}.resources.limits.{name}", f"{amount} is no whole number of devices"


def _amount(text: Any) -> Any:
    """None for what is no quantity, which is told elsewhere."""
    try:
        return parse_quantity(str(text))
    except ValueError:
        return None


def _mounts(path: str, container: Mapping[str, Any], volumes: set[Any]) -> Found:
    mounts = container.get("volumeMounts") or ()
    for mount in mounts:
        if mount.get("name") not in volumes:
            declared = ", ".join(sorted(map(str, volumes))) or "none"
            yield (
                f"{path}.volumeMounts",
                f"volume {mount.get('name')} is mounted and not declared; there are: {declared}",
            )
    places = [mount.get("mountPath") for mount in mounts]
    for place in {place for place in places if places.count(place) > 1}:
        yield f"{path}.volumeMounts", f"two volumes are mounted at {place}"


def _ports(path: str, container: Mapping[str, Any]) -> Found:
    named = {port.get("name") for port in container.get("ports") or ()}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        action = container.get(probe) or {}
        port = (action.get("httpGet") or action.get("tcpSocket") or {}).get("port")
        if isinstance(port, str) and port not in named:
            yield f"{path}.{probe}", f"the container has no port called {port}"


def _environment(path: str, container: Mapping[str, Any], spec: Mapping[str, Any]) -> Found:
    names = [str(variable.get("name")) for variable in container.get("env") or ()]
    for name in names:
        try:
            check_env(name)
        except ValueError as error:
            yield f"{path}.env", str(error)
    if any(name.startswith("TEXT2SQL_") for name in names) and spec.get("enableServiceLinks", True):
        yield (
            f"{path}.env",
            "a Service called text2sql would set TEXT2SQL_PORT to its own address; write enableServiceLinks: false",
        )
