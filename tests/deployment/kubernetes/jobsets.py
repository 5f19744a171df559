"""A stand-in for the JobSet controller and its nodes: pods are processes of this machine, with their logs in files.

Each pod runs the JobSet's own command, its peers' names taken for loopback, or what the test says for it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.stacks.api_server import ApiServer
from text2sql.deployment.kubernetes.nodes import INDEX

UNSCHEDULED = "unscheduled"
SET = "jobset.sigs.k8s.io/jobset-name"
NO_ROOM = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."


@dataclass
class NodePod:
    """One pod, and its process unless it is placed nowhere."""

    name: str
    jobset: str
    rank: int
    log: Path
    process: subprocess.Popen[bytes] | None = None
    ended_at: str = ""
    told: bool = False

    def end(self) -> None:
        """SIGTERM, once, as a kubelet sends it."""
        if self.process is not None and not self.told:
            self.process.send_signal(signal.SIGTERM)
            self.told = True

    @property
    def phase(self) -> str:
        if self.process is None:
            return "Pending"
        return {None: "Running", 0: "Succeeded"}.get(self.process.poll(), "Failed")

    def to_dict(self) -> dict[str, Any]:
        labels = {SET: self.jobset, INDEX: str(self.rank)}
        metadata = {"name": self.name, "labels": labels, "uid": self.name}
        if self.process is None:
            placed = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": NO_ROOM}
            return {"metadata": metadata, "status": {"phase": "Pending", "conditions": [placed]}}
        code = self.process.poll()
        state: dict[str, Any] = {"running": {}}
        if code is not None:
            self.ended_at = self.ended_at or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            state = {"terminated": {"exitCode": code % 256, "reason": "Error", "finishedAt": self.ended_at}}
        container = {"name": "train", "state": state, "containerID": "c", "ready": code is None, "restartCount": 0}
        return {"metadata": metadata, "status": {"phase": self.phase, "containerStatuses": [container]}}


@dataclass
class Controller:
    """What is made of the JobSets of one namespace."""

    folder: Path
    programs: dict[int, list[str] | str] = field(default_factory=dict)
    """By rank: a command in place of the JobSet's, or UNSCHEDULED."""
    pods: list[NodePod] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    """Names of JobSets that have been taken away."""

    def step(self, jobsets: dict[str, dict[str, Any]]) -> None:
        for name, found in jobsets.items():
            if name not in {pod.jobset for pod in self.pods}:
                self._start(name, found)
            self._tell(name, found)
        for pod in self.pods:
            if pod.jobset not in jobsets:
                self.ended.add(pod.jobset)
                pod.end()
        self.pods = [p for p in self.pods if p.jobset in jobsets or p.phase == "Running"]

    def _start(self, name: str, found: dict[str, Any]) -> None:
        [replicated] = found["spec"]["replicatedJobs"]
        job = replicated["template"]["spec"]
        [container] = job["template"]["spec"]["containers"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        names = {f"--master-addr={name}-{replicated['name']}-0-0.{name}": "--master-addr=127.0.0.1"}
        names["--master-port=29500"] = f"--master-port={port}"
        own = [names.get(word, word) for word in container["command"]]
        assert job["completionMode"] == "Indexed"
        for rank in range(job["completions"]):
            pod = NodePod(f"{name}-{replicated['name']}-0-{rank}-x7k2p", name, rank, self.folder / f"{name}-{rank}.log")
            command = self.programs.get(rank, own)
            if command != UNSCHEDULED:
                environment = {**os.environ, "PET_NODE_RANK": str(rank)}
                with pod.log.open("wb") as log:
                    pod.process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            self.pods.append(pod)

    def _tell(self, name: str, found: dict[str, Any]) -> None:
        """One that fails ends all, as backoffLimit 0 and maxRestarts 0 say."""
        phases = [pod.phase for pod in self.pods if pod.jobset == name]
        if "Failed" in phases:
            for pod in self.pods:
                pod.end()
            self._condition(found, "Failed", "jobset failed due to one or more job failures")
        elif set(phases) == {"Succeeded"}:
            self._condition(found, "Completed", "jobset completed successfully")

    @staticmethod
    def _condition(found: dict[str, Any], kind: str, message: str) -> None:
        found["status"] = {"conditions": [{"type": kind, "status": "True", "message": message}]}

    @staticmethod
    def log(pod: NodePod, query: dict[str, str]) -> str:
        """With times that count lines; `sinceTime` loses what is below a second, and so gives all of them again."""
        lines = pod.log.read_text().splitlines() if pod.log.exists() else []
        if "timestamps" in query:
            lines = [f"2026-01-01T00:00:00.{number:09d}Z {line}" for number, line in enumerate(lines)]
        return "\n".join(lines[-int(query.get("tailLines", 10**6)) :])


class JobSets(ApiServer):
    """An API server with a JobSet controller; without one where `known` is False."""

    def __init__(self, folder: Path) -> None:
        self.controller = Controller(folder)
        self.known = True
        self._turn = threading.RLock()
        super().__init__()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any] | str]:
        url = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        parts = url.path.split("/")
        with self._turn:
            if "jobsets" in parts and not self.known:
                return 404, {"message": "the server could not find the requested resource"}
            self.controller.step(self.objects.setdefault(("training", "jobsets"), {}))
            if parts[-1] == "log":
                found = [pod for pod in self.controller.pods if pod.name == parts[-2]]
                return (200, self.controller.log(found[0], query)) if found else (404, {"message": "not found"})
            if parts[-1] == "pods":
                wanted = query["labelSelector"].removeprefix(f"{SET}=")
                return 200, {"items": [pod.to_dict() for pod in self.controller.pods if pod.jobset == wanted]}
            if parts[-1] == "events":
                return 200, {"items": self._events(query["fieldSelector"].removeprefix("involvedObject.name="))}
            return super().answer(method, path, body)

    def _events(self, name: str) -> list[dict[str, str]]:
        pending = [pod for pod in self.controller.pods if pod.name == name and pod.process is None]
        return [{"type": "Warning", "reason": "FailedScheduling", "message": NO_ROOM} for _ in pending]

    def close(self) -> None:
        super().close()
        for pod in self.controller.pods:
            if pod.process is not None:
                pod.process.kill()
                pod.process.wait()
