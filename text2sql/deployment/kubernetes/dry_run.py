"""Manifests against an API server, which is to change nothing: defaults, validation, admission, Pod Security, quotas.

https://kubernetes.io/docs/reference/using-api/api-concepts/#dry-run. A Deployment or CronJob is taken with pods that no
namespace would let in (Pod Security warns there, and enforces on pods alone), so their pods are tried as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from text2sql.deployment.kubernetes.api import APPLY, JSON, Answer, Cluster, Manifest
from text2sql.deployment.kubernetes.lint import TEMPLATES
from text2sql.errors import DeploymentError

HOW = {"dryRun": "All", "fieldValidation": "Strict", "fieldManager": "text2sql-dry-run"}


@dataclass
class Tried:
    """What an API server would do."""

    taken: int = 0
    problems: list[str] = field(default_factory=list)
    """What it refuses, or takes with a warning about Pod Security."""
    notes: list[str] = field(default_factory=list)
    """Kinds that it does not know, for their operator is not there; other warnings."""


def dry_run(cluster: Cluster, documents: Sequence[Manifest]) -> Tried:
    """Try all of them in the cluster's namespace, whatever namespace they name.

    Raises:
        DeploymentError: the namespace is not there, or the cluster cannot be asked.
    """
    return _DryRun(cluster).all(documents)


class _DryRun:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._tried = cluster, Tried()
        self._known: dict[str, dict[str, Any] | None] = {}

    def all(self, documents: Sequence[Manifest]) -> Tried:
        if self._cluster.get("Namespace", self._cluster.namespace) is None:
            name = self._cluster.namespace
            raise DeploymentError(f"namespace {name} is not there; kubectl apply -f k8s/base/namespace-text2sql.yaml")
        for document in documents:
            self._apply(document)
            if document["kind"] in TEMPLATES and document["kind"] != "Pod":
                self._pod(document)
        return self._tried

    def _apply(self, document: Manifest) -> None:
        name = f"{document['kind']} {document['metadata']['name']}"
        resource = self._resource(document["apiVersion"], document["kind"])
        if resource is None:
            self._tried.notes.append(f"{name}: this cluster knows no {document['kind']} of {document['apiVersion']}")
            return
        path = _root(document["apiVersion"])
        if resource["namespaced"]:
            path += f"/namespaces/{self._cluster.namespace}"
            document = document | {"metadata": document["metadata"] | {"namespace": self._cluster.namespace}}
        path += f"/{resource['name']}/{document['metadata']['name']}"
        self._heard(name, self._cluster.ask("PATCH", path, HOW | {"force": "true"}, document, APPLY))

    def _pod(self, document: Manifest) -> None:
        """As the account default: its own may not be there yet, and admission would ask for it."""
        template: Any = document
        for key in TEMPLATES[document["kind"]]:
            template = template[key]
        spec = {key: value for key, value in template["spec"].items() if key != "serviceAccountName"}
        metadata = template.get("metadata", {}) | {"name": document["metadata"]["name"]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        answer = self._cluster.ask("POST", f"/api/v1/namespaces/{self._cluster.namespace}/pods", HOW, pod, JSON)
        self._heard(f"pods of {document['kind']} {document['metadata']['name']}", answer)

    def _heard(self, name: str, answer: Answer) -> None:
        warning = " ".join(answer.headers.get("Warning", "").split())
        if not answer.ok:
            self._tried.problems.append(f"{name}: {answer.status} {' '.join(str(answer.said.get('message')).split())}")
        elif "PodSecurity" in warning:
            self._tried.problems.append(f"{name}: {warning}")
        else:
            self._tried.taken += 1
            self._tried.notes += [f"{name}: {warning}"] if warning else []

    def _resource(self, version: str, kind: str) -> dict[str, Any] | None:
        """Plural name and scope of a kind, from the server's own discovery; None where it has no such kind."""
        if version not in self._known:
            answer = self._cluster.ask("GET", _root(version))
            if not answer.ok and answer.status != 404:
                raise DeploymentError(f"{self._cluster.server} does not tell what it knows: {answer.status}")
            self._known[version] = {
                one["kind"]: one for one in answer.said.get("resources") or () if "/" not in one["name"]
            }
        return (self._known[version] or {}).get(kind)


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"
