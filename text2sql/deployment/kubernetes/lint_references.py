"""Faults between objects: what refers to something that is not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Manifest = Mapping[str, Any]
Found = Iterator[tuple[Manifest, str, str]]

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "Pod")


def reference_problems(documents: Sequence[Manifest]) -> Found:
    """Every one of them; secrets are not looked for, which no manifest should hold."""
    there = {(d.get("kind"), d.get("metadata", {}).get("name")) for d in documents}
    pods = [labels for d in documents if (labels := _pod_labels(d)) is not None]
    for document in documents:
        for kind, name, path in _named(document):
            if (kind, name) not in there:
                yield document, path, f"there is no {kind} {name} among these manifests"
        selector = _selector(document)
        if selector and not any(selector.items() <= labels.items() for labels in pods):
            wanted = ", ".join(f"{key}={value}" for key, value in selector.items())
            yield document, "spec.selector", f"no pod of these manifests has the labels {wanted}"


def _named(document: Manifest) -> Iterator[tuple[str, str, str]]:
    """Kind and name of what an object refers to, and where."""
    kind, spec = document.get("kind"), document.get("spec") or {}
    if kind == "HorizontalPodAutoscaler" or kind == "ScaledObject":
        target = spec["scaleTargetRef"]
        yield target.get("kind", "Deployment"), target["name"], "spec.scaleTargetRef"
    if kind == "Ingress":
        for rule in spec.get("rules") or ():
            for path in rule["http"]["paths"]:
                yield "Service", path["backend"]["service"]["name"], f"spec.rules[{path['path']}]"
    if kind == "HTTPRoute":
        for rule in spec.get("rules") or ():
            for backend in rule["backendRefs"]:
                yield "Service", backend["name"], "spec.rules"
    pod = _pod(document)
    if pod is not None:
        yield from _of_pod(pod.get("spec") or {})


def _of_pod(spec: Manifest) -> Iterator[tuple[str, str, str]]:
    if account := spec.get("serviceAccountName"):
        yield "ServiceAccount", account, "serviceAccountName"
    for volume in spec.get("volumes") or ():
        if claim := volume.get("persistentVolumeClaim"):
            yield "PersistentVolumeClaim", claim["claimName"], f"volumes[{volume['name']}]"
        if (source := volume.get("configMap")) and not source.get("optional"):
            yield "ConfigMap", source["name"], f"volumes[{volume['name']}]"
    for container in (*(spec.get("initContainers") or ()), *spec["containers"]):
        for source in container.get("envFrom") or ():
            if (reference := source.get("configMapRef")) and not reference.get("optional"):
                yield "ConfigMap", reference["name"], f"containers[{container['name']}].envFrom"


def _selector(document: Manifest) -> Mapping[str, str] | None:
    spec = document.get("spec") or {}
    if document.get("kind") == "Service":
        return spec.get("selector")
    if document.get("kind") == "PodDisruptionBudget":
        return (spec.get("selector") or {}).get("matchLabels")
    return None


def _pod(document: Manifest) -> Manifest | None:
    spec = document.get("spec") or {}
    if document.get("kind") == "CronJob":
        return dict(spec["jobTemplate"]["spec"]["template"])
    if document.get("kind") == "Pod":
        return document
    return dict(spec["template"]) if document.get("kind") in WORKLOADS else None


def _pod_labels(document: Manifest) -> Mapping[str, str] | None:
    pod = _pod(document)
    return None if pod is None else (pod.get("metadata") or {}).get("labels") or {}
