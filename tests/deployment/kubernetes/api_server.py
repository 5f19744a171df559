"""A stand-in for the API server of a cluster: keeps state, applies server-side, refuses, and fails when told to."""

from __future__ import annotations

import copy
import json
import re
import threading
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.deployment.kubernetes import fields
from tests.deployment.kubernetes.control_plane import ControlPlane, Pod
from tests.deployment.kubernetes.served_model import reply

ROUTE = re.compile(r"/(?:api/v1|apis/[^/]+/v1)/namespaces/([^/]+)/([a-z]+)(?:/([^/]+))?(/log|/proxy/.*)?")
KINDS = {"deployments": "Deployment", "services": "Service", "configmaps": "ConfigMap", "leases": "Lease"}
KINDS |= {"secrets": "Secret", "persistentvolumeclaims": "PersistentVolumeClaim", "serviceaccounts": "ServiceAccount"}
RESOURCES = {kind: plural for plural, kind in KINDS.items()}
RESOURCES |= {"Deployment": "deployments.apps", "Lease": "leases.coordination.k8s.io"}
"""As messages name them."""
SPEC = {"selector", "template", "replicas", "strategy", "minReadySeconds", "revisionHistoryLimit", "paused"}
SPEC |= {"progressDeadlineSeconds"}
"""Of a Deployment; of fields further in this stand-in has no schema."""


class StatusError(Exception):
    """What the API server answers with in place of an object."""

    def __init__(self, code: int, reason: str, message: str, causes: list[dict[str, str]] | None = None) -> None:
        self.code = code
        self.body: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        self.body |= {"code": code, "message": message}
        self.body |= {"reason": reason} if reason else {}
        self.body |= {"details": {"causes": causes}} if causes else {}


@dataclass
class Fault:
    """Fails requests; `status` 0 drops the connection, before the request is worked on or, if `after`, after it."""

    method: str
    path: str
    status: int
    times: int = 10**9
    after: bool = False
    message: str = "scripted"


@dataclass
class StandIn:
    """One namespace. Everything that a test wants to see is an attribute."""

    namespace: str = "test"
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    owners: dict[tuple[str, str], fields.Owners] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    plane: ControlPlane = field(default_factory=ControlPlane)
    heard: list[str] = field(default_factory=list)
    """Versions that clients of the stable Service heard, in order."""
    version: int = 0
    key: str | None = None
    """What the servers ask for as X-API-Key."""
    denied: set[str] = field(default_factory=set)
    """Resources for which an access review says no."""
    nodes: list[dict[str, Any]] | None = None
    """None: whoever asks may not list them, as an account of one namespace."""

    def __post_init__(self) -> None:
        self.add("ConfigMap", "program")
        self._lock = threading.RLock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._http.server_address[1]}"

    def add(self, kind: str, name: str, **fields: Any) -> None:
        """What an administrator has made."""
        self.objects[kind, name] = {"kind": kind, "metadata": {"name": name}, **fields}

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def edit(self, kind: str, name: str, manager: str, change: dict[str, Any]) -> None:
        """Somebody else applies something, by force."""
        with self._lock:
            self._write(kind, name, change, manager, force=True)

    def ask(self, service: str, path: str = "/readyz", body: bytes = b"") -> tuple[int, dict[str, Any], str]:
        """Status, JSON and version of a server behind a Service, chosen as kube-proxy would."""
        with self._lock:
            self._step()
            found = self.objects.get(("Service", service))
            selector = found["spec"]["selector"] if found else {}
            ready = [pod for pod in self.plane.pods if found and pod.ready and selector.items() <= pod.labels.items()]
            if not ready:
                raise StatusError(503, "ServiceUnavailable", f'no endpoints available for service "{service}"')
            self.version += 1
            pod = ready[self.version % len(ready)]
            if service == "text2sql":
                self.heard.append(pod.version)
            return *reply(path, body, pod.behaviour), pod.version

    def handle(self, method: str, target: str, body: bytes, headers: Any) -> tuple[int, Any, dict[str, str]]:
        url = urlsplit(target)
        match = ROUTE.fullmatch(url.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if match is None:
            return self._outside(url.path, json.loads(body) if body else {})
        namespace, plural, name, rest = match.groups()
        if rest and rest.startswith("/proxy/"):
            if self.key is not None and headers.get("X-API-Key") != self.key and rest != "/proxy/readyz":
                return 401, {"error": {"message": "give an API key"}}, {}
            status, said, version = self.ask(name.split(":")[1], rest.removeprefix("/proxy"), body)
            return status, said, {"X-Model-Version": version}
        with self._lock:
            self._step()
            if plural in ("pods", "events"):
                return 200, self._of_pods(plural, name, rest, query), {}
            kind = KINDS[plural]
            if namespace != self.namespace and method != "GET":
                raise StatusError(404, "NotFound", f'namespaces "{namespace}" not found')
            return self._object(method, kind, name or "", json.loads(body) if body else {}, query)

    def _outside(self, path: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        """What is of no namespace."""
        if path == f"/api/v1/namespaces/{self.namespace}":
            return 200, {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": self.namespace}}, {}
        if match := re.fullmatch("/api/v1/namespaces/([^/]+)", path):
            raise StatusError(404, "NotFound", f'namespaces "{match[1]}" not found')
        if path == "/api/v1/nodes" and self.nodes is None:
            raise StatusError(403, "Forbidden", "nodes is forbidden")
        if path == "/api/v1/nodes":
            return 200, {"items": self.nodes}, {}
        if path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
            asked = body["spec"]["resourceAttributes"]
            return 201, {**body, "status": {"allowed": asked["resource"] not in self.denied}}, {}
        return 404, "404 page not found\n", {}  # of a group that it does not have: no JSON

    def _object(
        self, method: str, kind: str, name: str, body: dict[str, Any], query: dict[str, str]
    ) -> tuple[int, Any, dict[str, str]]:
        key = (kind, name or body.get("metadata", {}).get("name", ""))
        if method == "PATCH":
            manager, force = query["fieldManager"], query.get("force") == "true"
            status = 200 if key in self.objects else 201
            return status, self._write(*key, body, manager, force), {}
        resource = RESOURCES[kind]
        if method == "POST":
            if key in self.objects:
                raise StatusError(409, "AlreadyExists", f'{resource} "{key[1]}" already exists')
            return 201, self._write(*key, body, query.get("fieldManager", "unknown"), force=True), {}
        if method == "PUT" and kind == "Lease" and key not in self.objects and "uid" not in body["metadata"]:
            return 201, self._write(*key, body, query.get("fieldManager", "unknown"), force=True), {}
        if method == "PUT" and (why := self._stale(key, body["metadata"])):
            raise StatusError(409, "Conflict", f'Operation cannot be fulfilled on {resource} "{name}": {why}')
        if key not in self.objects:
            raise StatusError(404, "NotFound", f'{resource} "{name}" not found')
        if method == "PUT":
            return 200, self._write(*key, body, query.get("fieldManager", "unknown"), force=True), {}
        if method == "DELETE":
            self.plane.forget(name)
            self.owners.pop(key, None)
            details = {"name": name, "uid": self.objects.pop(key)["metadata"].get("uid")}
            return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": details}, {}
        return 200, self.objects[key], {}

    def _stale(self, key: tuple[str, str], wanted: dict[str, Any]) -> str:
        """Why an object must not be written over what is there; ""."""
        there = self.objects.get(key, {}).get("metadata", {})
        if "uid" in wanted and wanted["uid"] != there.get("uid"):
            return (
                f"Precondition failed: UID in precondition: {wanted['uid']}, UID in object meta: {there.get('uid', '')}"
            )
        if there and wanted.get("resourceVersion") != there["resourceVersion"]:
            return "the object has been modified; please apply your changes to the latest version and try again"
        return ""

    def _write(self, kind: str, name: str, wanted: dict[str, Any], manager: str, force: bool) -> dict[str, Any]:
        key = (kind, name)
        live, owners = self.objects.get(key, {}), self.owners.setdefault(key, {})
        found = fields.conflicts(live, owners, wanted, manager)
        if found and not force:
            causes = [
                {
                    "reason": "FieldManagerConflict",
                    "message": f'conflict with "{who}"',
                    "field": "." + ".".join(p),
                }
                for p, who in found.items()
            ]
            many = "conflict" if len(found) == 1 else "conflicts"
            told = "; ".join(f"{cause['message']}: {cause['field']}" for cause in causes)
            raise StatusError(409, "Conflict", f"Apply failed with {len(found)} {many}: {told}", causes)
        if kind == "Deployment" and (unknown := wanted["spec"].keys() - SPEC):
            where = f"{self.namespace}/{name}; apps/v1, Kind=Deployment"
            words = f".spec.{min(unknown)}: field not declared in schema"
            raise StatusError(500, "", f"failed to create typed patch object ({where}): {words}")
        owners = copy.deepcopy(owners)
        made = fields.apply(live, owners, wanted, manager, force)
        made |= {"kind": kind, "apiVersion": wanted.get("apiVersion", live.get("apiVersion"))}
        if kind == "Deployment":
            self._admit(live, made)
        self.version += 1
        metadata = made.setdefault("metadata", {}) | {"name": name, "namespace": self.namespace}
        metadata |= {"resourceVersion": str(self.version), "uid": metadata.get("uid") or str(uuid.uuid4())}
        if kind == "Deployment":
            old = live.get("metadata", {}).get("generation", 0)
            metadata["generation"] = old + (made.get("spec") != live.get("spec"))
        made["metadata"] = metadata
        self.objects[key], self.owners[key] = made, owners
        return copy.deepcopy(made)  # as it is before any controller has seen it

    @staticmethod
    def _admit(live: dict[str, Any], made: dict[str, Any]) -> None:
        """Defaults, and what cannot be."""
        spec = made["spec"]
        spec.setdefault("replicas", 1)
        strategy = spec.setdefault("strategy", {"type": "RollingUpdate"})
        if strategy["type"] == "Recreate" and "rollingUpdate" in strategy:
            words = "may not be specified when strategy `type` is 'Recreate'"
            raise _invalid("spec.strategy.rollingUpdate", "Forbidden", words)
        if strategy["type"] == "RollingUpdate":
            strategy.setdefault("rollingUpdate", {"maxSurge": "25%", "maxUnavailable": "25%"})
        if not spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items():
            raise _invalid("spec.template.metadata.labels", "Invalid", "`selector` does not match template `labels`")
        if live and live["spec"]["selector"] != spec["selector"]:
            raise _invalid("spec.selector", "Invalid", "field is immutable")

    def _step(self) -> None:
        self.plane.bury()
        for (kind, _), found in self.objects.items():
            if kind == "Deployment":
                self.plane.step(found)

    def _of_pods(self, plural: str, name: str | None, rest: str | None, query: dict[str, str]) -> Any:
        if rest == "/log":
            [pod] = [pod for pod in self.plane.pods if pod.name == name]
            return "loading\nerror: the model cannot be loaded\n" if pod.behaviour == "crash" else "loading\n"
        if plural == "events":
            named = query["fieldSelector"].removeprefix("involvedObject.name=")
            return {"items": [event for pod in self.plane.pods if pod.name == named for event in pod.events()]}
        wanted = dict(part.split("=") for part in query.get("labelSelector", "").split(",") if part)
        pods: list[Pod] = [pod for pod in self.plane.pods if wanted.items() <= pod.labels.items()]
        return {"items": [pod.to_dict(self.namespace) for pod in pods]}


def _invalid(where: str, why: str, words: str) -> StatusError:
    """Without the value that the real one writes between them."""
    said = f"{why}: {words}" if why == "Forbidden" else f"{why} value: {words}"
    cause = {"reason": f"FieldValue{why}", "field": where, "message": said}
    return StatusError(422, "Invalid", f"Deployment.apps is invalid: {where}: {said}", [cause])


def handler_of(server: StandIn) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - a class of short methods
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: the second would wait for an acknowledgement

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.requests.append((self.command, self.path))
            fault = self._fault()
            if fault and fault.status == 0 and not fault.after:
                self._drop()
                return
            status, said, headers = self._answer(fault, body)
            if fault and fault.after:
                self._drop()
                return
            data = said.encode() if isinstance(said, str) else json.dumps(said).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - http.server's names

        def _answer(self, fault: Fault | None, body: bytes) -> tuple[int, Any, dict[str, str]]:
            try:
                if fault and fault.status:
                    raise StatusError(fault.status, "Scripted", fault.message)
                return server.handle(self.command, self.path, body, self.headers)
            except StatusError as error:
                return error.code, error.body, {"Retry-After": "0"} if error.code == 429 else {}

        def _fault(self) -> Fault | None:
            for fault in server.faults:
                if fault.times and fault.method in (self.command, "*") and re.search(fault.path, self.path):
                    fault.times -= 1
                    return fault
            return None

        def _drop(self) -> None:
            self.close_connection = True
            self.connection.close()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler
