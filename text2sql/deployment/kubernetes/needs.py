"""What a release needs of its cluster, read from the Deployment itself, so that what is missing is told beforehand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from text2sql.deployment.kubernetes.api import Cluster, Manifest
from text2sql.deployment.kubernetes.manifests import RELEASES, Rendered
from text2sql.deployment.kubernetes.preflight import Access, Pod, preflight
from text2sql.errors import DeploymentError

KEYS = "api-keys"
"""Secret with the keys that a server takes: where it is mounted, who has none is answered 401."""


def check_needs(cluster: Cluster, base: Rendered, fixed_nodes: bool, by_proxy: bool) -> list[str]:
    """Ask the cluster for all of it; what this user may not look at, a line each.

    Args:
        by_proxy: whether the questions to the new server go through the API server.

    Raises:
        DeploymentError: something is missing; a line each.
    """
    pods = pods_of(base.deployment)
    found = preflight(cluster, pods, accesses(base, by_proxy), fixed_nodes)
    if any(name == KEYS for pod in pods for name, _ in pod.secrets) and not os.environ.get("OPENAI_API_KEY"):
        found.problems.append(
            f"Secret {KEYS}: the new server is asked questions before it goes live; set OPENAI_API_KEY to one of its "
            "keys (in a pod by `secrets` of the stack's file, or the Secret deploy-key)"
        )
    if found.problems:
        raise DeploymentError("\n".join(found.problems))
    return found.notes


def accesses(base: Rendered, by_proxy: bool) -> list[Access]:
    """What the deploy step does; k8s/base/role-deploy.yaml grants it."""
    done = [Access(verb, "deployments", "apps", base.server) for verb in ("get", "patch", "delete")]
    done += [Access(verb, "services", name=base.name) for verb in ("patch", "delete")]
    done += [Access(verb, "configmaps", name=RELEASES) for verb in ("get", "patch")]
    done += [Access("create", "deployments", "apps"), Access("create", "services"), Access("create", "configmaps")]
    done += [Access("list", "pods"), Access("list", "events"), Access("get", "pods/log")]
    if by_proxy:
        done += [Access(verb, "services/proxy", name=f"http:{base.name}:http") for verb in ("get", "create")]
    return done


def pods_of(deployment: Manifest) -> list[Pod]:
    """Its pod as `preflight` asks about it: one a kind of device, one where there is none."""
    spec = deployment["spec"]["template"]["spec"]
    volumes = spec.get("volumes") or []
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume]
    secrets = [(name, key) for kind, name, key in _references(spec) if kind == "secret"]
    configs = [name for kind, name, _ in _references(spec) if kind == "configMap"]
    found = devices(spec) or {"nvidia.com/gpu": 0}
    return [
        Pod(
            f"Deployment {deployment['metadata']['name']}",
            spec.get("nodeSelector") or {},
            device,
            count,
            claims,
            secrets,
            spec.get("serviceAccountName"),
            configs,
        )
        for device, count in found.items()
    ]


def devices(spec: Manifest) -> dict[str, int]:
    """GPUs and their like, of all containers that run beside each other."""
    sidecars = [one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"]
    found: dict[str, int] = {}
    for container in (*sidecars, *spec["containers"]):
        for name, amount in ((container.get("resources") or {}).get("limits") or {}).items():
            if "/" in name:
                found[name] = found.get(name, 0) + int(amount)
    return found


def _references(spec: Manifest) -> Iterator[tuple[str, str, str]]:
    """Kind, name and key ("" for all of them) of each Secret and ConfigMap without which the pod does not start."""

    def needed(kind: str, source: Any, name: str) -> Iterator[tuple[str, str, str]]:
        if source and not source.get("optional"):
            keys = [source["key"]] if "key" in source else [item["key"] for item in source.get("items") or ()]
            yield from ((kind, source[name], key) for key in keys or [""])

    for volume in spec.get("volumes") or ():
        yield from needed("secret", volume.get("secret"), "secretName")
        yield from needed("configMap", volume.get("configMap"), "name")
    for container in (*(spec.get("initContainers") or ()), *spec["containers"]):
        for source in container.get("envFrom") or ():
            yield from needed("secret", source.get("secretRef"), "name")
            yield from needed("configMap", source.get("configMapRef"), "name")
        for variable in container.get("env") or ():
            value = variable.get("valueFrom") or {}
            yield from needed("secret", value.get("secretKeyRef"), "name")
            yield from needed("configMap", value.get("configMapKeyRef"), "name")
