"""What a cluster must have before anything is created in it: asked beforehand, and told all at once.

Two kinds of findings: problems, which would end as a pod that is Pending for ever or as a 403 half-way, and notes about
what could not be asked (a service account of one namespace may not list nodes, say).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from text2sql.deployment.kubernetes.api import Cluster, Manifest
from text2sql.deployment.kubernetes.syntax import parse_quantity
from text2sql.errors import DeploymentError

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
REVIEWS_OF_OTHERS = "/apis/authorization.k8s.io/v1/namespaces/{}/localsubjectaccessreviews"
NO_KINDS: Mapping[str, str] = {}


@dataclass(frozen=True)
class Access:
    """Something that is going to be done; `group` is empty for the core API."""

    verb: str
    resource: str
    group: str = ""
    name: str = ""
    """Of the one object that it is done to; empty: of any."""
    account: str | None = None
    """The service account that does it; None: who asks."""

    @property
    def title(self) -> str:
        name = f" {self.name}" if self.name else ""
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}{name}"


@dataclass(frozen=True)
class Pod:
    """What a pod will ask for; `who` is how it is called in a message."""

    who: str
    node_selector: Mapping[str, str] = field(default_factory=dict)
    gpu_resource: str = "nvidia.com/gpu"
    gpus: int = 0
    claims: Sequence[str] = ()
    secrets: Sequence[tuple[str, str]] = ()
    """Secret and key; no key: whichever it has."""
    service_account: str | None = None
    configs: Sequence[str] = ()
    """ConfigMaps."""
    many: bool = False
    """Whether several of these run at once, on nodes of their own, and write to the same claims."""


@dataclass
class Findings:
    """All that was found."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def preflight(
    cluster: Cluster,
    pods: Sequence[Pod],
    accesses: Sequence[Access] = (),
    fixed_nodes: bool = True,
    kinds: Mapping[str, str] = NO_KINDS,
) -> Findings:
    """Ask the cluster about everything that the pods need and the caller will do in its namespace.

    Args:
        kinds: groups with their versions that it must know beyond its own, and what brings each.
        fixed_nodes: whether the nodes that are there are all that will be; an autoscaler may have none at the moment.

    Raises:
        DeploymentError: the cluster cannot be reached, or does not know the caller.
    """
    return _Questions(cluster).all(pods, accesses, fixed_nodes, kinds)


class _Questions:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._namespace = cluster.namespace
        self._found = Findings()

    def all(
        self, pods: Sequence[Pod], accesses: Sequence[Access], fixed_nodes: bool, kinds: Mapping[str, str]
    ) -> Findings:
        if not self._namespace_is_there():
            return self._found
        for group, remedy in kinds.items():
            if self._ask(f"/apis/{group}", group) is None:
                self._found.problems.append(f"the cluster does not know {group}; {remedy}")
        for access in accesses:
            self._may(access)
        self._claims(pods)
        self._secrets(pods)
        self._configs(pods)
        self._service_accounts(pods)
        if fixed_nodes and any(pod.gpus or pod.node_selector for pod in pods):
            self._nodes(pods)
        return self._found

    def _ask(self, path: str, what: str, body: Manifest | None = None) -> Manifest | None:
        """The answer; None where it is not there (404); {} where it must not be asked (403), which is noted."""
        try:
            answer = self._cluster.ask("POST" if body else "GET", path, body=body)
        except DeploymentError as error:
            raise DeploymentError(f"{error}; check the context of your kubeconfig") from error
        if answer.status == 404:
            return None
        if answer.status == 403:
            self._note(f"{what} could not be checked: this user may not read them")
            return {}
        if not answer.ok:
            why = f"{answer.status} {answer.said.get('message', '')}".strip()
            raise DeploymentError(f"{self._cluster.server} refuses to tell of {what}: {why}")
        return answer.said

    def _named(self, kind: str, name: str, what: str) -> Manifest | None:
        return self._ask(f"/api/v1/namespaces/{self._namespace}/{kind}/{name}", what)

    def _note(self, line: str) -> None:
        if line not in self._found.notes:
            self._found.notes.append(line)

    def _namespace_is_there(self) -> bool:
        if self._ask(f"/api/v1/namespaces/{self._namespace}", "namespaces") is not None:
            return True
        self._found.problems.append(
            f"namespace {self._namespace!r} is not there; create it with `kubectl create namespace {self._namespace}`"
        )
        return False

    def _may(self, access: Access) -> None:
        resource, _, subresource = access.resource.partition("/")
        attributes = {"namespace": self._namespace, "verb": access.verb, "group": access.group, "name": access.name}
        attributes |= {"resource": resource, "subresource": subresource}
        review: Manifest = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
        }
        path, whose = REVIEWS, ""
        if access.account is not None:
            path, whose = REVIEWS_OF_OTHERS.format(self._namespace), f" for service account {access.account}"
            review |= {"kind": "LocalSubjectAccessReview", "metadata": {"namespace": self._namespace}}
            review["spec"]["user"] = f"system:serviceaccount:{self._namespace}:{access.account}"
            groups = ["system:serviceaccounts", f"system:serviceaccounts:{self._namespace}", "system:authenticated"]
            review["spec"]["groups"] = groups
        answer = self._ask(path, f"permissions{whose}", review)
        if answer and not answer["status"].get("allowed"):
            self._found.problems.append(
                f"no permission to {access.title} in namespace {self._namespace!r}{whose}; ask for a Role with it"
            )

    def _claims(self, pods: Sequence[Pod]) -> None:
        for claim, who in _users((claim, pod.who) for pod in pods for claim in pod.claims):
            found = self._named("persistentvolumeclaims", claim, "volume claims")
            if found is None:
                self._found.problems.append(
                    f"{who}: there is no PersistentVolumeClaim {claim!r} in namespace {self._namespace!r}"
                )
            elif (found.get("status") or {}).get("phase") == "Lost":
                self._found.problems.append(f"{who}: PersistentVolumeClaim {claim!r} has lost its volume")
        for claim, who in _users((claim, pod.who) for pod in pods if pod.many for claim in pod.claims):
            found = self._named("persistentvolumeclaims", claim, "volume claims")
            modes = ((found or {}).get("spec") or {}).get("accessModes") or ["ReadWriteMany"]
            if "ReadWriteMany" not in modes:
                self._found.problems.append(
                    f"{who}: PersistentVolumeClaim {claim!r} is {', '.join(modes)}, and several nodes write to it; "
                    "make one with ReadWriteMany"
                )

    def _secrets(self, pods: Sequence[Pod]) -> None:
        wanted = (((secret, key), pod.who) for pod in pods for secret, key in pod.secrets)
        for (name, key), who in _users(wanted):
            secret = self._named("secrets", name, "secrets")
            data = (secret or {}).get("data") or {}
            if secret is None:
                self._found.problems.append(f"{who}: there is no Secret {name!r} in namespace {self._namespace!r}")
            elif secret and key and key not in data:
                keys = ", ".join(sorted(data)) or "none"
                self._found.problems.append(f"{who}: Secret {name!r} has no key {key!r}; its keys: {keys}")

    def _configs(self, pods: Sequence[Pod]) -> None:
        for name, who in _users((name, pod.who) for pod in pods for name in pod.configs):
            if self._named("configmaps", name, "config maps") is None:
                self._found.problems.append(f"{who}: there is no ConfigMap {name!r} in namespace {self._namespace!r}")

    def _service_accounts(self, pods: Sequence[Pod]) -> None:
        for name, who in _users((pod.service_account, pod.who) for pod in pods if pod.service_account):
            if self._named("serviceaccounts", name, "service accounts") is None:
                self._found.problems.append(
                    f"{who}: there is no ServiceAccount {name!r} in namespace {self._namespace!r}"
                )

    def _nodes(self, pods: Sequence[Pod]) -> None:
        answer = self._ask("/api/v1/nodes", "nodes")
        if not answer:
            return
        nodes = [node for node in answer["items"] if not node["spec"].get("unschedulable")]
        for (selector, resource, gpus), who in _users(
            ((tuple(sorted(pod.node_selector.items())), pod.gpu_resource, pod.gpus), pod.who) for pod in pods
        ):
            fitting = [node for node in nodes if dict(selector).items() <= _labels(node).items()]
            if not fitting:
                self._found.problems.append(f"{who}: {_no_node(dict(selector), nodes)}")
                continue
            most = max(
                int(parse_quantity(node["status"].get("allocatable", {}).get(resource, "0"))) for node in fitting
            )
            if gpus > most:
                self._found.problems.append(f"{who}: {gpus} {resource} on one node, the best fitting node has {most}")


def _labels(node: Manifest) -> dict[str, str]:
    return node["metadata"].get("labels") or {}


def _users(pairs: Any) -> list[tuple[Any, str]]:
    """Each wanted thing once, with all who want it."""
    users: dict[Any, list[str]] = {}
    for thing, who in pairs:
        users.setdefault(thing, []).append(who)
    return [(thing, ", ".join(dict.fromkeys(names))) for thing, names in users.items()]


def _no_node(selector: dict[str, str], nodes: Sequence[Manifest]) -> str:
    """The first label that no node has as it is wanted, and what the nodes have instead."""
    if not selector:
        return "no node takes pods at all"
    for key, value in selector.items():
        there = {_labels(node).get(key) for node in nodes} - {None}
        if value not in there:
            return f"no node has {key}={value}; nodes have: {', '.join(sorted(map(str, there))) or 'no such label'}"
    return f"no node has all of {', '.join(f'{key}={value}' for key, value in selector.items())}"
