"""What is wrong with manifests and no schema can see; an API server refuses most of it, and the rest fails later.

A schema knows names and types of fields. It does not know a cron expression, a quantity, or which fields must agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from text2sql.deployment.kubernetes.cron import UTC, check_zone, parse_cron
from text2sql.deployment.kubernetes.lint_pods import PodSpec, pod_problems
from text2sql.deployment.kubernetes.lint_references import reference_problems
from text2sql.deployment.kubernetes.lint_security import restricted_problems
from text2sql.deployment.kubernetes.syntax import check_label_key, check_label_value, check_name, parse_quantity
from text2sql.errors import ConfigError

Manifest = Mapping[str, Any]
Found = Iterator[tuple[str, str]]
"""Path of a field, and what is wrong there."""

TEMPLATES = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
SELECTING = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")
RUN_TO_END = ("Job", "CronJob")


@dataclass(frozen=True)
class Problem:
    """One fault."""

    object: str
    """Its kind and name."""
    path: str
    """Field, with dots."""
    message: str

    def __str__(self) -> str:
        return f"{self.object}: {self.path}: {self.message}"


def lint(documents: Sequence[Manifest], *, restricted: bool | None = None, whole: bool = False) -> list[Problem]:
    """Every fault of every object.

    Args:
        restricted: hold pods to the Pod Security standard of that name; None: where a Namespace among them asks for it.
        whole: these are all there is, so that what they refer to must be among them.
    """
    if restricted is None:
        restricted = any(_labels(d).get("pod-security.kubernetes.io/enforce") == "restricted" for d in documents)
    problems = []
    for document in documents:
        found = [*_object(document), *_pods(document, restricted)]
        for path, job in _jobs_of(document):
            inner = [*_policy(job), *_pods(job, restricted)]
            found += [(f"{path}.{below}", words) for below, words in inner]
        problems += [Problem(_name(document), path, words) for path, words in found]
    if whole:
        problems += [Problem(_name(document), path, words) for document, path, words in reference_problems(documents)]
    return problems


def _pods(document: Manifest, restricted: bool) -> Found:
    if document.get("kind") in TEMPLATES:
        path = TEMPLATES[document["kind"]]
        pod = PodSpec(".".join((*path, "spec")), _at(document, path).get("spec") or {})
        yield from pod_problems(pod)
        yield from restricted_problems(pod) if restricted else ()


def _jobs_of(document: Manifest) -> Iterator[tuple[str, Manifest]]:
    """The Jobs that a JobSet makes, and where they stand."""
    if document.get("kind") == "JobSet":
        for job in document["spec"].get("replicatedJobs") or ():
            yield f"spec.replicatedJobs[{job.get('name')}].template", {"kind": "Job", **job["template"]}


def _object(document: Manifest) -> Found:
    kind, name = document.get("kind", ""), document.get("metadata", {}).get("name", "")
    yield from _checked("metadata.name", name, check_name)
    yield from _label_problems(document)
    yield from _quantity_problems(document)
    if kind == "CronJob":
        yield from _checked("spec.schedule", str(document["spec"].get("schedule", "")), parse_cron)
        yield from _checked("spec.timeZone", str(document["spec"].get("timeZone", UTC)), check_zone)
    if kind in SELECTING:
        labels = _at(document, (*TEMPLATES[kind], "metadata")).get("labels") or {}
        for key, value in (document["spec"]["selector"].get("matchLabels") or {}).items():
            if labels.get(key) != value:
                yield "spec.selector.matchLabels", f"{key}={value} is not among the labels of its own pods"
    yield from _policy(document)


def _policy(document: Manifest) -> Found:
    kind = document.get("kind", "")
    if kind in TEMPLATES and kind != "Pod":
        policy = _at(document, (*TEMPLATES[kind], "spec")).get("restartPolicy", "Always")
        if (policy == "Always") == (kind in RUN_TO_END):
            wanted = "OnFailure or Never" if kind in RUN_TO_END else "Always"
            yield ".".join((*TEMPLATES[kind], "spec.restartPolicy")), f"{policy} does not fit a {kind}; write {wanted}"


def _label_problems(value: Any, path: str = "") -> Found:
    """Labels and what selects by them, wherever they stand."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            below = f"{path}.{key}" if path else str(key)
            if key in ("labels", "matchLabels", "nodeSelector") or below == "spec.selector":
                for label, text in part.items() if isinstance(part, Mapping) else ():
                    if isinstance(text, str):
                        yield from _checked(below, label, check_label_key)
                        yield from _checked(f"{below}.{label}", text, check_label_value)
            yield from _label_problems(part, below)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _label_problems(part, f"{path}[{number}]")


def _quantity_problems(value: Any, path: str = "") -> Found:
    """Amounts of resources, wherever they stand."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            below = f"{path}.{key}" if path else str(key)
            if key in ("requests", "limits", "hard") and isinstance(part, Mapping):
                for resource, amount in part.items():
                    yield from _checked(f"{below}.{resource}", str(amount), parse_quantity)
            elif key in ("sizeLimit", "averageValue"):
                yield from _checked(below, str(part), parse_quantity)
            yield from _quantity_problems(part, below)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _quantity_problems(part, f"{path}[{number}]")


def _checked(path: str, text: str, check: Any) -> Found:
    try:
        check(text)
    except (ValueError, ConfigError) as error:
        yield path, str(error)


def _at(document: Manifest, path: Sequence[str]) -> dict[str, Any]:
    found: Any = document
    for key in path:
        found = found.get(key) or {}
    return dict(found)


def _labels(document: Manifest) -> Mapping[str, str]:
    return document.get("metadata", {}).get("labels") or {}


def _name(document: Manifest) -> str:
    return f"{document.get('kind', 'object')} {document.get('metadata', {}).get('name', '')}"
