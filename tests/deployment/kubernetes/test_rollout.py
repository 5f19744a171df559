"""When a rollout is done, and what is said of one that is not."""

from __future__ import annotations

from typing import Any

import pytest

from text2sql.deployment.kubernetes.rollout import of_pod, troubles, unfinished


def deployment(
    replicas: int = 2, generation: int = 3, conditions: list[dict[str, Any]] | None = None, **status: int
) -> dict[str, Any]:
    names = {
        "seen": "observedGeneration",
        "all": "replicas",
        "updated": "updatedReplicas",
        "ready": "availableReplicas",
    }
    told = {names[key]: value for key, value in status.items()}
    return {
        "metadata": {"name": "d", "generation": generation},
        "spec": {"replicas": replicas},
        "status": told | {"conditions": conditions or []},
    }


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"seen": 3, "all": 2, "updated": 2, "ready": 2}, ""),
        ({"seen": 2, "all": 2, "updated": 2, "ready": 2}, "has not seen it yet"),
        ({"seen": 3, "all": 3, "updated": 1, "ready": 2}, "1 of 2 servers started, 2 old, 2 available"),
        ({"seen": 3, "all": 3, "updated": 2, "ready": 3}, "2 of 2 servers started, 1 old"),
        ({"seen": 3, "all": 2, "updated": 2, "ready": 1}, "1 available"),
        ({"seen": 3}, "0 of 2 servers started, 0 available"),
        ({}, "has not seen it yet"),
    ],
)
def test_it_is_done_when_every_server_and_nothing_else_is_new_and_available(status: dict[str, int], words: str):
    found = unfinished(deployment(**status))
    assert words in found
    assert bool(words) == bool(found)


def pod(conditions: list[dict[str, Any]] | None = None, **container: Any) -> dict[str, Any]:
    status = {"name": "vllm", "restartCount": 0} | container
    return {"metadata": {"name": "p"}, "status": {"conditions": conditions or [], "initContainerStatuses": [status]}}


UNPLACED = {"type": "PodScheduled", "status": "False", "message": "1 Insufficient nvidia.com/gpu"}
ENDED = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    return pod(state={"waiting": {"reason": reason, "message": message}}, **more)


@pytest.mark.parametrize(
    ("made", "words", "hopeless", "stuck"),
    [
        (pod(state={"running": {}}), None, False, False),
        (waiting("PodInitializing"), None, False, False),
        (pod(state={"terminated": {"exitCode": 0}}), None, False, False),
        (pod(state={"running": {}}, restartCount=1, lastState=ENDED), None, False, False),
        (
            pod(state={"running": {}}, restartCount=4, lastState=ENDED),
            "4 times (OOMKilled, exit code",
            True,
            False,
        ),
        (waiting("CrashLoopBackOff", restartCount=1, lastState=ENDED), "ended 1 times", False, False),
        (waiting("CrashLoopBackOff", restartCount=3, lastState=ENDED), "ended 3 times", True, False),
        (waiting("ErrImagePull", "no such image"), "ErrImagePull: no such image", False, True),
        (waiting("CreateContainerConfigError", 'secret "k" not found'), 'secret "k" not found', False, True),
        (pod([UNPLACED]), "placed on no node: 1 Insufficient nvidia.com/gpu", False, False),
    ],
)
def test_a_pod_that_needs_time_is_told_from_one_that_will_not_come_up(
    made: dict[str, Any], words: str | None, hopeless: bool, stuck: bool
):
    found = of_pod(made)
    if words is None:
        assert found == []
        return
    [trouble] = found
    assert words in trouble.words
    assert (trouble.hopeless, trouble.stuck) == (hopeless, stuck)


def test_the_controllers_words_count_too():
    conditions = [
        {"type": "Available", "status": "True"},
        {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "pods is forbidden: quota"},
        {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"},
    ]
    first, second = troubles(deployment(conditions=conditions, seen=3), [])
    assert (first.words, first.stuck) == ("no pod can be made: pods is forbidden: quota", True)
    assert (second.words, second.hopeless) == ("it made no progress: timed out", True)
    assert troubles(deployment(conditions=conditions, seen=2), []) == [], "those were said of what it asked for before"
