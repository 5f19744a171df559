"""A kubelet for real control planes that have none (envtest, an API server with its controllers and no node).

It makes a Node of its own, which the pods of the tests name in their spec; of each it says what control_plane.Pod makes
of it, and where one serves, an HTTP server of this process answers in its place, so that the API server's proxy reaches
it. Logs it has none.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.deployment.kubernetes.control_plane import Pod
from tests.deployment.kubernetes.served_model import handler_of
from text2sql.deployment.kubernetes.api import Cluster

MERGE = "application/merge-patch+json"
FAKE = "kwok.x-k8s.io/node"
"""Annotation of Nodes that no kubelet of a machine looks after."""
LOOK_SECONDS = 0.2
BEAT_SECONDS = 5.0
UNPLACED_SECONDS = 3.0
"""A scheduler would have looked at a pod by then."""
END_SECONDS = 15.0
MOST_RESTARTS = 5


@contextmanager
def kubelet(cluster: Cluster) -> Iterator[Kubelet]:
    """For the pods of a namespace. Raises OSError where this machine has no address but loopback's."""
    found = Kubelet(cluster)
    found.start()
    try:
        yield found
    finally:
        found.close()


class Kubelet:
    """Looks after the pods that name its node."""

    def __init__(self, cluster: Cluster) -> None:
        self.node = f"text2sql-test-{secrets.token_hex(4)}"
        self.address = own_address(cluster.server)
        self._cluster = cluster
        self._pods: dict[str, Pod] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self._servers: dict[int, ThreadingHTTPServer] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubelet", daemon=True)

    def start(self) -> None:
        metadata = {"name": self.node, "annotations": {FAKE: "fake"}}  # or other test runs would take it for a real one
        self._ask("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata})
        self._beat()
        self._thread.start()

    def close(self) -> None:
        """After the namespace was deleted: once its pods are gone."""
        deadline = time.monotonic() + END_SECONDS
        while self._cluster.list("Pod") and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        self._over.set()
        self._thread.join()
        for server in self._servers.values():
            server.shutdown()
            server.server_close()
        self._cluster.ask("DELETE", f"/api/v1/nodes/{self.node}")

    def free_port(self) -> int:
        with socket.socket() as found:
            found.bind((self.address, 0))
            return int(found.getsockname()[1])

    def _run(self) -> None:
        beaten = time.monotonic()
        while not self._over.wait(LOOK_SECONDS):
            if time.monotonic() - beaten > BEAT_SECONDS:
                self._beat()
                beaten = time.monotonic()
            for pod in self._cluster.list("Pod"):
                self._tend(pod)

    def _beat(self) -> None:
        now = _now()
        plenty = {"cpu": "64", "memory": "512Gi", "pods": "500", "ephemeral-storage": "1Ti"}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "a stand-in of the tests"}
        status = {
            "capacity": plenty,
            "allocatable": plenty,
            "conditions": [ready | {"lastHeartbeatTime": now, "lastTransitionTime": now}],
            "addresses": [{"type": "InternalIP", "address": self.address}],
        }
        self._ask("PATCH", f"/api/v1/nodes/{self.node}/status", {"status": status}, MERGE)

    def _tend(self, found: dict[str, Any]) -> None:
        metadata, spec = found["metadata"], found["spec"]
        template = {"metadata": {"labels": {}, "annotations": {}} | metadata, "spec": spec}
        pod = self._pods.setdefault(metadata["uid"], Pod(metadata["name"], "", template, set()))
        path = f"/api/v1/namespaces/{self._cluster.namespace}/pods/{pod.name}"
        if spec.get("nodeName") not in (None, self.node):
            return
        if "deletionTimestamp" in metadata:
            self._cluster.ask("DELETE", path, {"gracePeriodSeconds": "0"})
            return
        placed = {condition["type"] for condition in (found.get("status") or {}).get("conditions") or []}
        if "nodeName" not in spec and ("PodScheduled" in placed or time.monotonic() - pod.born < UNPLACED_SECONDS):
            return  # there is a scheduler, or may be one
        status = self._status(pod, spec)
        if status == self._told.get(metadata["uid"]):
            return
        if metadata["uid"] not in self._told:
            self._events(pod, metadata)
        self._told[metadata["uid"]] = status
        self._ask("PATCH", f"{path}/status", {"status": status}, MERGE)

    def _status(self, pod: Pod, spec: dict[str, Any]) -> dict[str, Any]:
        status: dict[str, Any] = pod.to_dict("")["status"]
        if "nodeName" not in spec:
            return status
        ready = str(pod.ready)
        status["conditions"] += [{"type": "Initialized", "status": "True"}]
        status["conditions"] += [{"type": kind, "status": ready} for kind in ("ContainersReady", "Ready")]
        for container in status["containerStatuses"]:
            container |= {"image": spec["containers"][0]["image"], "imageID": ""}
            container["restartCount"] = min(container["restartCount"], MOST_RESTARTS)
        if pod.ready:
            self._serve(pod, spec["containers"][0]["ports"][0]["containerPort"])
        return status | {"hostIP": self.address, "podIP": self.address, "podIPs": [{"ip": self.address}]}

    def _serve(self, pod: Pod, port: int) -> None:
        if port not in self._servers:
            server = ThreadingHTTPServer((self.address, port), handler_of(pod.behaviour, pod.version))
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            self._servers[port] = server

    def _events(self, pod: Pod, metadata: dict[str, Any]) -> None:
        about = {"apiVersion": "v1", "kind": "Pod", "namespace": metadata["namespace"]}
        for number, said in enumerate(pod.events()):
            name = {"name": f"{pod.name}.{number}", "namespace": metadata["namespace"]}
            event = said | {"apiVersion": "v1", "kind": "Event"}
            involved = {"involvedObject": about | {"name": pod.name, "uid": metadata["uid"]}}
            times = {"firstTimestamp": _now(), "lastTimestamp": _now(), "source": {"component": "kubelet"}}
            path = f"/api/v1/namespaces/{metadata['namespace']}/events"
            self._ask("POST", path, {"metadata": name} | involved | event | times)

    def _ask(self, method: str, path: str, body: dict[str, Any], content: str = "application/json") -> None:
        answer = self._cluster.ask(method, path, None, body, content)
        # a pod that has gone, or a namespace that goes
        assert answer.ok or answer.status in (403, 404, 409), f"{method} {path}: {answer.status} {answer.said}"


def own_address(server: str) -> str:
    """This machine's, as the API server can reach it; never loopback, to which no API server proxies."""
    host = urlsplit(server).hostname or ""
    try:
        near = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        near = False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect(("192.0.2.1" if near else host, 9))  # sends nothing
        return str(way.getsockname()[0])


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
