"""How a rollout stands, from what the API server says; and why it does not get on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from text2sql.deployment.kubernetes.api import Cluster, Manifest

CRASHES = 3
"""A container that ended so often will not come up."""
STUCK = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
)
"""What a container waits for in vain, as a rule; a registry may be back after a while."""
EVENTS = 3
LOG_LINES = 20
WORD_CHARS = 300


@dataclass(frozen=True)
class Trouble:
    """Why something does not get on."""

    words: str
    hopeless: bool = False
    """Waiting longer will not help."""
    stuck: bool = False
    """Waiting longer will hardly help."""
    about: str = ""
    """What it befell: the words change from try to try of pulling an image."""


def unseen(deployment: Manifest) -> bool:
    """Whether its status is still that of what it asked for before."""
    status = deployment.get("status") or {}
    return bool(status.get("observedGeneration", 0) != deployment["metadata"].get("generation"))


def unfinished(deployment: Manifest) -> str:
    """What is missing until every replica, and nothing else, is the new one and serves; "" when it is done."""
    status = deployment.get("status") or {}
    if unseen(deployment):
        return "the controller has not seen it yet"
    wanted = deployment["spec"].get("replicas", 1)
    updated, everything, available = (
        int(status.get(name) or 0) for name in ("updatedReplicas", "replicas", "availableReplicas")
    )
    if wanted == updated == everything == available:
        return ""
    old = f", {everything - updated} old" if everything > updated else ""
    return f"{updated} of {wanted} servers started{old}, {available} available"


def troubles(deployment: Manifest, pods: list[Manifest]) -> list[Trouble]:
    """What keeps a rollout up: the controller's words, then the pods'."""
    found = []
    conditions = [] if unseen(deployment) else (deployment.get("status") or {}).get("conditions") or []
    for condition in conditions:
        kind, says, why = condition["type"], condition["status"], condition.get("reason", "")
        if kind == "ReplicaFailure" and says == "True":
            found.append(Trouble(f"no pod can be made: {_cut(condition.get('message'))}", stuck=True, about=kind))
        if kind == "Progressing" and says == "False" and why == "ProgressDeadlineExceeded":
            found.append(Trouble(f"it made no progress: {_cut(condition.get('message'))}", hopeless=True))
    return found + [trouble for pod in pods for trouble in of_pod(pod)]


def of_pod(pod: Manifest) -> list[Trouble]:
    """What is wrong with a pod; nothing where it only needs time."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    found = [
        Trouble(f"pod {name} is placed on no node: {_cut(condition.get('message'))}")
        for condition in status.get("conditions") or []
        if condition["type"] == "PodScheduled" and condition["status"] == "False"
    ]
    for container in containers(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, ended = waiting.get("reason", ""), last_end(container)
        where = f"container {container['name']} of pod {name}"
        if reason == "CrashLoopBackOff" or (ended and container.get("restartCount", 0) >= CRASHES):
            code = f"{ended.get('reason', '')}, exit code {ended.get('exitCode')}".strip(", ")
            count = container.get("restartCount", 0)
            found.append(Trouble(f"{where} ended {count} times ({code})", hopeless=count >= CRASHES))
        elif reason in STUCK:
            found.append(Trouble(f"{where}: {reason}: {_cut(waiting.get('message'))}", stuck=True, about=where))
    return found


def containers(pod: Manifest) -> list[dict[str, Any]]:
    """Statuses, those of init containers and sidecars first."""
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def last_end(container: dict[str, Any]) -> dict[str, Any]:
    """How a container ended last; {} where it never did, or did what it had to."""
    for state in (container.get("state") or {}, container.get("lastState") or {}):
        if ended := state.get("terminated"):
            return dict(ended) if ended.get("exitCode") else {}
    return {}


def evidence(cluster: Cluster, pods: list[Manifest]) -> tuple[str, list[str]]:
    """The pods' events and the last words of those that ended: what fits into a line, and all for the terminal."""
    short: list[str] = []
    told: list[str] = []
    for pod in pods:
        name = pod["metadata"]["name"]
        events = sorted(
            cluster.list("Event", fieldSelector=f"involvedObject.name={name}"),
            key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""),
        )
        warnings = [f"{e.get('reason')}: {_cut(e.get('message'))}" for e in events if e.get("type") == "Warning"]
        short += [f"event {words}" for words in dict.fromkeys(warnings[-EVENTS:])]
        told += [f"event of {name}: {words}" for words in dict.fromkeys(warnings)]
        for container in containers(pod):
            log = _last_log(cluster, name, container)
            if log:
                short.append(f"{container['name']} said: {_cut(_word(log))}")
                told += [f"{name} {container['name']}: {line}" for line in log[-LOG_LINES:]]
    return "; ".join(dict.fromkeys(short)), told


def _last_log(cluster: Cluster, pod: str, container: dict[str, Any]) -> list[str]:
    """Of a container that ended, or runs and is not ready."""
    if container.get("ready") or not (container.get("containerID") or last_end(container)):
        return []
    if not last_end(container) and "running" not in (container.get("state") or {}):
        return []
    again = bool((container.get("lastState") or {}).get("terminated"))
    text = cluster.log(pod, container["name"], previous=again, lines=LOG_LINES)
    return [line.strip() for line in text.splitlines() if line.strip()]


def _word(lines: list[str]) -> str:
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines)[-1]


def _cut(text: object) -> str:
    words = " ".join(str(text or "").split())
    return words if len(words) <= WORD_CHARS else words[: WORD_CHARS - 1] + "…"
