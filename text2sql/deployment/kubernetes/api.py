"""The API server: objects as plain mappings, errors as one line, and what is worth asking again asked again.

The official client finds the cluster, its certificates and its tokens (kubeconfig, or a pod's own account); requests go
over its connections. Objects stay what the server sent: the client's models drop what they do not know.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

from text2sql.errors import DeploymentError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

Manifest = dict[str, Any]

MANAGER = "text2sql-deploy"
"""The one field manager of everything that the deploy step applies."""
APPLY = "application/apply-patch+yaml"
JSON = "application/json"
KINDS = {
    "Namespace": "/api/v1/namespaces",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "Service": "/api/v1/namespaces/{}/services",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Event": "/api/v1/namespaces/{}/events",
    "Lease": "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
    "JobSet": "/apis/jobset.x-k8s.io/v1alpha2/namespaces/{}/jobsets",
}
PASSING = (429, 500, 502, 503, 504)
"""A server that is busy or not well; asked again."""
NO_PATCH = re.compile("failed to (create typed patch object|convert new object)")
"""What a server-side apply says of a field that its kind does not have, or of a value of another type. API servers say
500 to that and not 400, so that its words alone tell it from a server that is not well."""
CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
LONGEST_PAUSE = 8.0
PATIENCE = 60.0


@dataclass(frozen=True)
class Answer:
    """What the API server said."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def said(self) -> dict[str, Any]:
        """Its JSON; {} where it is none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


class Refused(DeploymentError):
    """The API server does not do it; asking again would not help."""

    def __init__(self, message: str, status: int = 0) -> None:
        self.status = status
        super().__init__(message)

    def __reduce__(self) -> tuple[type[Refused], tuple[str, int]]:
        return type(self), (str(self), self.status)


class Cluster:
    """One namespace of a cluster.

    Args:
        patience: seconds after which an API server that is busy, broken or gone is given up.
    """

    def __init__(self, client: ApiClient, namespace: str, patience: float = PATIENCE) -> None:
        self.namespace, self._client, self._patience = namespace, client, patience

    @classmethod
    def connect(cls, namespace: str, context: str | None = None, patience: float = PATIENCE) -> Self:
        """By the pod's own account where this is a pod and no context is named, else by the kubeconfig.

        Raises:
            DeploymentError: there is neither.
        """
        from kubernetes import config
        from kubernetes.client import ApiClient, Configuration

        found = Configuration()
        try:
            if context is None and is_pod():
                config.load_incluster_config(client_configuration=found)
            else:
                # the client reads KUBECONFIG once, when it is imported
                config.load_kube_config(os.environ.get("KUBECONFIG"), context=context, client_configuration=found)
        except (config.ConfigException, OSError) as error:
            raise DeploymentError(
                f"no cluster is known here ({' '.join(str(error).split())}); set KUBECONFIG, or "
                "deploy.kubernetes.context"
            ) from None
        found.retries = False  # ours knows which are worth it
        return cls(ApiClient(found), namespace, patience)

    @property
    def server(self) -> str:
        """The API server's address."""
        return str(self._client.configuration.host).rstrip("/")

    def get(self, kind: str, name: str) -> Manifest | None:
        """An object; None where there is none."""
        answer = self.ask("GET", f"{self._path(kind)}/{name}")
        if answer.status == 404:
            return None
        return self._told(answer, "get", kind, name)

    def list(self, kind: str, **query: str) -> list[Manifest]:
        """Objects by labelSelector or fieldSelector."""
        answer = self.ask("GET", self._path(kind), query)
        return list(self._told(answer, "list", kind, "").get("items", []))

    def apply(self, manifest: Manifest, take_over: bool = False) -> Manifest:
        """Server-side apply, as the one field manager.

        Raises:
            Refused: another manages one of the fields, or the object cannot be as it is written.
        """
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        query = {"fieldManager": MANAGER, "force": str(take_over).lower()}
        answer = self.ask("PATCH", f"{self._path(kind)}/{name}", query, manifest, APPLY)
        return self._told(answer, "patch", kind, name)

    def create(self, manifest: Manifest) -> bool:
        """Whether it was made; False where there is one of this name already."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        answer = self.ask("POST", self._path(kind), {"fieldManager": MANAGER}, manifest)
        if answer.status == 409:
            return False
        self._told(answer, "create", kind, name)
        return True

    def replace(self, manifest: Manifest) -> None:
        """Write it, unless it has changed since it was read."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        answer = self.ask("PUT", f"{self._path(kind)}/{name}", {"fieldManager": MANAGER}, manifest)
        if answer.status not in (404, 409):
            self._told(answer, "update", kind, name)

    def delete(self, kind: str, name: str) -> None:
        """It at once, and what belongs to it soon after; nothing where it is gone already."""
        answer = self.ask("DELETE", f"{self._path(kind)}/{name}", {"propagationPolicy": "Background"})
        if answer.status != 404:
            self._told(answer, "delete", kind, name)

    def log(self, pod: str, container: str, previous: bool, lines: int = 20) -> str:
        """The last lines of a container; "" where there is no log, or its node does not give it out. Asked for once:
        the API server is well when a node is gone, and says 500 or 502 all the same."""
        query = {"container": container, "previous": str(previous).lower(), "tailLines": str(lines)}
        answer = self._once("GET", f"{self._path('Pod')}/{pod}/log", query | {"limitBytes": "65536"}, None, JSON)
        return answer.body.decode("utf-8", "replace") if isinstance(answer, Answer) and answer.ok else ""

    def log_after(self, pod: str, container: str, stamp: str) -> Sequence[tuple[str, str]]:
        """Time and text of the lines of a container's log after the one of time `stamp`; the first of all where that
        is "". Nothing where it has none yet, or cannot be read now."""
        query = {"container": container, "timestamps": "true", "limitBytes": "1048576"}
        query |= {"sinceTime": stamp} if stamp else {}  # on its way to the node it loses all below a second
        answer = self._once("GET", f"{self._path('Pod')}/{pod}/log", query, None, JSON)
        text = answer.body.decode("utf-8", "replace") if isinstance(answer, Answer) and answer.ok else ""
        lines = (line.partition(" ") for line in text.splitlines())
        return [(time, words) for time, _, words in lines if time > stamp]

    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content: str = JSON,
    ) -> Answer:
        """One request, again and again while the server is busy, broken or out of reach. All of ours may be repeated.

        Raises:
            DeploymentError: it stays so.
        """
        deadline, pause = time.monotonic() + self._patience, 0.25
        while True:
            answer = self._once(method, path, query or {}, body, content)
            if isinstance(answer, Answer) and (answer.status not in PASSING or _is_no_patch(answer)):
                return answer
            wait = min(pause * random.uniform(0.8, 1.2), LONGEST_PAUSE)
            if isinstance(answer, Answer) and answer.headers.get("Retry-After", "").isdecimal():
                wait = max(wait, float(answer.headers["Retry-After"]))
            if time.monotonic() + wait > deadline:
                why = answer if isinstance(answer, str) else f"{answer.status} {answer.said.get('message', '')}".strip()
                raise DeploymentError(f"the API server {self.server} does not answer in {self._patience:g} s ({why})")
            time.sleep(wait)
            pause *= 2

    def send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout: float) -> Answer:
        """One request as it is, with our credentials.

        Raises:
            OSError: no answer came.
        """
        import urllib3

        wanted = dict(headers)
        self._client.update_params_for_auth(wanted, [], ["BearerToken"])
        try:
            reply = self._client.rest_client.pool_manager.request(
                method,
                self.server + path,
                body=body,
                headers=wanted,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=timeout),
                retries=False,
                redirect=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise OSError(_brief(error)) from error
        return Answer(reply.status, reply.data, reply.headers)

    def _once(
        self, method: str, path: str, query: Mapping[str, str], body: Manifest | None, content: str
    ) -> Answer | str:
        """What it said, or why it said nothing."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json, */*", "User-Agent": MANAGER, "Content-Type": content}
        try:
            return self.send(method, f"{path}?{urlencode(query)}" if query else path, data, headers, READ_SECONDS)
        except OSError as error:
            return str(error)

    def _path(self, kind: str) -> str:
        return KINDS[kind].format(self.namespace)

    def _told(self, answer: Answer, verb: str, kind: str, name: str) -> Manifest:
        if answer.ok:
            return answer.said
        what = f"{kind} {name} in namespace {self.namespace}" if name else f"{kind}s in namespace {self.namespace}"
        raise Refused(refusal(answer, verb, what), answer.status)


def refusal(answer: Answer, verb: str, what: str) -> str:
    """Why the API server does not do it, and what to do, in one line."""
    said = " ".join(str(answer.said.get("message") or answer.body.decode("utf-8", "replace")[:300]).split())
    causes = [cause for cause in (answer.said.get("details") or {}).get("causes") or [] if isinstance(cause, dict)]
    if answer.status == 401:
        return f"the API server does not know us ({said}); renew the credentials of your kubeconfig"
    if answer.status == 403:
        if "exceeded quota" in said:
            return f"{what}: {said}; raise ResourceQuota text2sql, or end something"
        if any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
            return f"{what}: {said}; wait until it is gone, and have it made anew"
        return (
            f"no permission to {verb} {what}: {said}; bind Role text2sql-deploy to whoever deploys "
            "(k8s/base/rolebinding-deploy.yaml)"
        )
    if answer.status == 404:
        return f"{what}: {said}; an administrator makes the namespace: kubectl apply --server-side -k k8s/overlays/…"
    if answer.status == 409 and any(cause.get("reason") == "FieldManagerConflict" for cause in causes):
        fields = "; ".join(f"{cause.get('field')}: {' '.join(str(cause.get('message')).split())}" for cause in causes)
        return (
            f"{what} is managed by somebody else too ({fields}); let that one go of it, or take it over with "
            "--set deploy.kubernetes.take_over=true"
        )
    if answer.status == 422:
        fields = "; ".join(f"{cause.get('field')}: {cause.get('message')}" for cause in causes) or said
        return (
            f"{what} cannot be as deploy.kubernetes.manifests says ({fields}); what cannot be changed "
            "in place, such as the strategy, is made anew after --pipeline stop"
        )
    if _is_no_patch(answer):
        return (
            f"{what} cannot be as deploy.kubernetes.manifests says ({said}); correct that there, or take a newer "
            "cluster (k8s/ needs Kubernetes 1.30)"
        )
    return f"cannot {verb} {what}: {answer.status} {said}"


def _is_no_patch(answer: Answer) -> bool:
    return answer.status == 500 and NO_PATCH.match(str(answer.said.get("message"))) is not None


def is_pod() -> bool:
    """Whether this process runs in a cluster."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
