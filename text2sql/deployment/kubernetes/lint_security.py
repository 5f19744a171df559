"""Pod Security, the standard "restricted": https://kubernetes.io/docs/concepts/security/pod-security-standards/."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from text2sql.deployment.kubernetes.lint_pods import PodSpec

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SECCOMP = ("RuntimeDefault", "Localhost")
Found = Iterator[tuple[str, str]]


def restricted_problems(pod: PodSpec) -> Found:
    """What keeps a pod out of a namespace that enforces it."""
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(field):
            yield f"{pod.path}.{field}", "restricted forbids it"
    for volume in pod.spec.get("volumes") or ():
        for kind in volume.keys() - {"name"} - VOLUMES:
            yield f"{pod.path}.volumes[{volume.get('name')}]", f"restricted forbids volumes of type {kind}"
    everybody = pod.spec.get("securityContext") or {}
    for path, container in pod.containers():
        yield from _container(path, container, container.get("securityContext") or {}, everybody)


def _container(path: str, container: Mapping[str, Any], own: Mapping[str, Any], everybody: Mapping[str, Any]) -> Found:
    path = f"{path}.securityContext"
    if own.get("privileged"):
        yield f"{path}.privileged", "restricted forbids it"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{path}.allowPrivilegeEscalation", "restricted wants false"
    if not (own.get("runAsNonRoot", everybody.get("runAsNonRoot"))):
        yield f"{path}.runAsNonRoot", "restricted wants true, here or for the pod"
    if own.get("runAsUser", everybody.get("runAsUser")) == 0:
        yield f"{path}.runAsUser", "restricted forbids 0"
    seccomp = (own.get("seccompProfile") or everybody.get("seccompProfile") or {}).get("type")
    if seccomp not in SECCOMP:
        yield f"{path}.seccompProfile", "restricted wants type RuntimeDefault or Localhost, here or for the pod"
    capabilities = own.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or ()):
        yield f"{path}.capabilities.drop", "restricted wants [ALL]"
    for name in {*(capabilities.get("add") or ())} - {"NET_BIND_SERVICE"}:
        yield f"{path}.capabilities.add", f"restricted forbids {name}"
    if own.get("procMount", "Default") != "Default":
        yield f"{path}.procMount", "restricted wants Default"
    if any(port.get("hostPort") for port in container.get("ports") or ()):
        yield f"{path.removesuffix('.securityContext')}.ports", "restricted forbids hostPort"
