"""What a cluster must have before anything is created in it: asked beforehand, and told all at once.

Two kinds of findings: problems, which would end as a pod that is Pending for ever or as a 403 half-way, and notes about
what could not be asked (a service account of one namespace may not list nodes, say).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from text2sql.deployment.kubernetes.syntax import parse_quantity
from text2sql.errors import DeploymentError

TIMEOUT = 15
"""Seconds for each question."""


@dataclass(frozen=True)
class Access:
    """Something that is going to be done; `group` is empty for the core API."""

    verb: str
    resource: str
    group: str = ""

    @property
    def title(self) -> str:
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}"


@dataclass(frozen=True)
class Pod:
    """What a pod will ask for; `who` is how it is called in a message."""

    who: str
    node_selector: Mapping[str, str] = field(default_factory=dict)
    gpu_resource: str = "nvidia.com/gpu"
    gpus: int = 0
    claims: Sequence[str] = ()
    secrets: Sequence[tuple[str, str]] = ()
    """Secret and key."""
    service_account: str | None = None


@dataclass
class Findings:
    """All that was found."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def preflight(
    client: Any, namespace: str, pods: Sequence[Pod], accesses: Sequence[Access] = (), fixed_nodes: bool = True
) -> Findings:
    """Ask the cluster about everything that the pods need and the caller will do in a namespace.

    Args:
        client: a `kubernetes.client.ApiClient`.
        fixed_nodes: whether the nodes that are there are all that will be; an autoscaler may have none at the moment.

    Raises:
        DeploymentError: the cluster cannot be reached, or does not know the caller.
    """
    return _Questions(client, namespace).all(pods, accesses, fixed_nodes)


class _Questions:
    def __init__(self, client: Any, namespace: str) -> None:
        from kubernetes import client as api

        self._api = api
        self._client = client
        self._core = api.CoreV1Api(client)
        self._namespace = namespace
        self._found = Findings()

    def all(self, pods: Sequence[Pod], accesses: Sequence[Access], fixed_nodes: bool) -> Findings:
        if not self._namespace_is_there():
            return self._found
        for access in accesses:
            self._may(access)
        self._claims(pods)
        self._secrets(pods)
        self._service_accounts(pods)
        if fixed_nodes and any(pod.gpus or pod.node_selector for pod in pods):
            self._nodes(pods)
        return self._found

    def _ask(self, question: Callable[..., Any], *arguments: Any, what: str) -> Any:
        """The answer, or None where it is not there (404) or must not be asked (403, which is noted)."""
        from urllib3.exceptions import HTTPError

        try:
            return question(*arguments, _request_timeout=TIMEOUT)
        except self._api.ApiException as error:
            if error.status == 404:
                return None
            if error.status == 403:
                self._note(f"{what} could not be checked: this user may not read them")
                return ...
            raise DeploymentError(f"{self._host} refuses to tell of {what}: {error.status} {error.reason}") from error
        except (HTTPError, OSError) as error:
            why = " ".join(str(error).split())[:200]
            raise DeploymentError(
                f"the cluster at {self._host} cannot be reached ({why}); check the context of your kubeconfig"
            ) from error

    @property
    def _host(self) -> str:
        return str(self._client.configuration.host)

    def _note(self, line: str) -> None:
        if line not in self._found.notes:
            self._found.notes.append(line)

    def _namespace_is_there(self) -> bool:
        if self._ask(self._core.read_namespace, self._namespace, what="namespaces") is not None:
            return True
        self._found.problems.append(
            f"namespace {self._namespace!r} is not there; create it with `kubectl create namespace {self._namespace}`"
        )
        return False

    def _may(self, access: Access) -> None:
        attributes = {
            "namespace": self._namespace,
            "verb": access.verb,
            "group": access.group,
            "resource": access.resource.partition("/")[0],
            "subresource": access.resource.partition("/")[2],
        }
        review = self._api.V1SelfSubjectAccessReview(
            spec=self._api.V1SelfSubjectAccessReviewSpec(
                resource_attributes=self._api.V1ResourceAttributes(**{k: v for k, v in attributes.items() if v})
            )
        )
        ask = self._api.AuthorizationV1Api(self._client).create_self_subject_access_review
        answer = self._ask(ask, review, what="permissions")
        if answer is not None and answer is not ... and not answer.status.allowed:
            self._found.problems.append(
                f"no permission to {access.title} in namespace {self._namespace!r}; ask for a Role with it"
            )

    def _claims(self, pods: Sequence[Pod]) -> None:
        for claim, who in _users((claim, pod.who) for pod in pods for claim in pod.claims):
            ask = self._core.read_namespaced_persistent_volume_claim
            found = self._ask(ask, claim, self._namespace, what="volume claims")
            if found is None:
                self._found.problems.append(
                    f"{who}: there is no PersistentVolumeClaim {claim!r} in namespace {self._namespace!r}"
                )
            elif found is not ... and found.status.phase == "Lost":
                self._found.problems.append(f"{who}: PersistentVolumeClaim {claim!r} has lost its volume")

    def _secrets(self, pods: Sequence[Pod]) -> None:
        wanted = (((secret, key), pod.who) for pod in pods for secret, key in pod.secrets)
        for (name, key), who in _users(wanted):
            secret = self._ask(self._core.read_namespaced_secret, name, self._namespace, what="secrets")
            if secret is None:
                self._found.problems.append(f"{who}: there is no Secret {name!r} in namespace {self._namespace!r}")
            elif secret is not ... and key not in (secret.data or {}):
                keys = ", ".join(sorted(secret.data or {})) or "none"
                self._found.problems.append(f"{who}: Secret {name!r} has no key {key!r}; its keys: {keys}")

    def _service_accounts(self, pods: Sequence[Pod]) -> None:
        for name, who in _users((pod.service_account, pod.who) for pod in pods if pod.service_account):
            ask = self._core.read_namespaced_service_account
            if self._ask(ask, name, self._namespace, what="service accounts") is None:
                self._found.problems.append(
                    f"{who}: there is no ServiceAccount {name!r} in namespace {self._namespace!r}"
                )

    def _nodes(self, pods: Sequence[Pod]) -> None:
        answer = self._ask(self._core.list_node, what="nodes")
        if answer is None or answer is ...:
            return
        nodes = [node for node in answer.items if not node.spec.unschedulable]
        for (selector, resource, gpus), who in _users(
            ((tuple(sorted(pod.node_selector.items())), pod.gpu_resource, pod.gpus), pod.who) for pod in pods
        ):
            fitting = [node for node in nodes if dict(selector).items() <= (node.metadata.labels or {}).items()]
            if not fitting:
                self._found.problems.append(f"{who}: {_no_node(dict(selector), nodes)}")
                continue
            most = max(int(parse_quantity((node.status.allocatable or {}).get(resource, "0"))) for node in fitting)
            if gpus > most:
                self._found.problems.append(f"{who}: {gpus} {resource} on one node, the best fitting node has {most}")


def _users(pairs: Any) -> list[tuple[Any, str]]:
    """Each wanted thing once, with all who want it."""
    users: dict[Any, list[str]] = {}
    for thing, who in pairs:
        users.setdefault(thing, []).append(who)
    return [(thing, ", ".join(dict.fromkeys(names))) for thing, names in users.items()]


def _no_node(selector: dict[str, str], nodes: Sequence[Any]) -> str:
    """The first label that no node has as it is wanted, and what the nodes have instead."""
    for key, value in selector.items():
        there = {(node.metadata.labels or {}).get(key) for node in nodes} - {None}
        if value not in there:
            return f"no node has {key}={value}; nodes have: {', '.join(sorted(map(str, there))) or 'no such label'}"
    return f"no node has all of {', '.join(f'{key}={value}' for key, value in selector.items())}"
