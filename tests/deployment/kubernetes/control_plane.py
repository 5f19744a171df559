"""What controllers, scheduler and kubelets make of the objects of the stand-in: pods, and the status of a rollout.

How a pod fares is read from its own spec, as in a real cluster: an image that is nowhere, a resource that no node has,
a program that dies or is slow.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

LOAD_SECONDS = 0.03
SLOW_SECONDS = 0.5
BACK_OFF_AFTER = 0.05
END_SECONDS = 0.1


@dataclass
class Pod:
    """One pod; its state follows from its age."""

    name: str
    deployment: str
    template: dict[str, Any]
    broken: set[str]
    """Versions that have stopped working."""
    born: float = field(default_factory=time.monotonic)
    ending: float | None = None
    """Since when, where it is."""

    @property
    def hash(self) -> str:
        return hashed(self.template)

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.template["metadata"]["labels"]) | {"pod-template-hash": self.hash}

    @property
    def version(self) -> str:
        return str(self.template["metadata"]["annotations"]["text2sql/model-version"])

    @property
    def _container(self) -> dict[str, Any]:
        return dict(self.template["spec"]["containers"][0])

    @property
    def behaviour(self) -> str:
        container = self._container
        if self.version in self.broken:
            return "crash"
        if "missing" in container["image"]:
            return "image"
        if any(name.startswith("example.com/") for name in container["resources"]["requests"]):
            return "pending"
        return next(str(e["value"]) for e in container["env"] if e["name"] == "BEHAVIOUR")

    @property
    def ready(self) -> bool:
        if self.ending is not None:
            return False
        seconds = {"slow": SLOW_SECONDS, "healthy": LOAD_SECONDS, "wrong": LOAD_SECONDS}.get(self.behaviour)
        return seconds is not None and time.monotonic() - self.born > seconds

    def to_dict(self, namespace: str) -> dict[str, Any]:
        metadata = {"name": self.name, "namespace": namespace, "labels": self.labels}
        metadata["annotations"] = dict(self.template["metadata"]["annotations"])
        if self.ending is not None:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        return {"kind": "Pod", "metadata": metadata, "spec": self.template["spec"], "status": self._status()}

    def _status(self) -> dict[str, Any]:
        container: dict[str, Any] = {"name": self._container["name"], "ready": self.ready, "restartCount": 0}
        placed: dict[str, Any] = {"type": "PodScheduled", "status": "True"}
        match self.behaviour:
            case "pending":
                words = "0/1 nodes are available: 1 Insufficient example.com/none."
                placed |= {"status": "False", "reason": "Unschedulable", "message": words}
                return {"phase": "Pending", "conditions": [placed]}
            case "image":
                tries = int((time.monotonic() - self.born) / BACK_OFF_AFTER)  # in turn, as a kubelet has it
                reason = "ImagePullBackOff" if tries % 2 else "ErrImagePull"
                words = f'Back-off pulling image "{self._container["image"]}"'
                container["state"] = {"waiting": {"reason": reason, "message": words}}
            case "crash":
                ended = {"terminated": {"exitCode": 1, "reason": "Error"}}
                count = int((time.monotonic() - self.born) / LOAD_SECONDS)
                container |= {"restartCount": count, "containerID": "containerd://1"}
                container |= {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended} if count else {}
            case _:
                container |= {"state": {"running": {}}, "containerID": "containerd://1"}
        return {"phase": "Running", "conditions": [placed], "containerStatuses": [container]}

    def events(self) -> list[dict[str, Any]]:
        said = {
            "pending": ("FailedScheduling", "0/1 nodes are available: 1 Insufficient example.com/none."),
            "image": ("Failed", f'Failed to pull image "{self._container["image"]}": not found'),
            "crash": ("BackOff", f"Back-off restarting failed container gateway in pod {self.name}"),
        }.get(self.behaviour)
        if said is None:
            return []
        return [{"type": "Warning", "reason": said[0], "message": said[1], "lastTimestamp": "2026-01-01T00:00:00Z"}]


class ControlPlane:
    """Brings the pods of each Deployment a step nearer to what it asks for, whenever it is looked at."""

    def __init__(self) -> None:
        self.pods: list[Pod] = []
        self.broken: set[str] = set()
        self._count = 0

    def of(self, name: str) -> list[Pod]:
        return [pod for pod in self.pods if pod.deployment == name and pod.ending is None]

    def forget(self, name: str) -> None:
        for pod in self.of(name):
            pod.ending = time.monotonic()

    def bury(self) -> None:
        now = time.monotonic()
        self.pods = [pod for pod in self.pods if pod.ending is None or now - pod.ending < END_SECONDS]

    def step(self, deployment: dict[str, Any]) -> None:
        name, spec = deployment["metadata"]["name"], deployment["spec"]
        wanted, template = spec.get("replicas", 1), spec["template"]
        new = [pod for pod in self.of(name) if pod.hash == hashed(template)]
        old = [pod for pod in self.of(name) if pod not in new]
        if spec["strategy"]["type"] == "Recreate" and old:
            self.pods = [pod for pod in self.pods if pod not in old]
        else:
            if len(new) < wanted and len(new) + len(old) <= wanted:  # one more than wanted, and never one less
                self._count += 1
                self.pods.append(Pod(f"{name}-{hashed(template)[:8]}-{self._count}", name, template, self.broken))
            if old and len(new) + len(old) > wanted and sum(pod.ready for pod in new) > wanted - len(old):
                self.pods.remove(old[0])
        self._tell(deployment)

    def _tell(self, deployment: dict[str, Any]) -> None:
        pods = self.of(deployment["metadata"]["name"])
        template = hashed(deployment["spec"]["template"])
        ready = sum(pod.ready for pod in pods)
        deployment["status"] = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": len(pods),
            "updatedReplicas": sum(pod.hash == template for pod in pods),
            "readyReplicas": ready,
            "availableReplicas": ready,
        }


def hashed(template: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
