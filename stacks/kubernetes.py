"""The resource spec in the words of ZenML's Kubernetes orchestrator. Pure functions: dicts in, dicts out.

Traps of ZenML 0.98: ResourceSettings are ignored, so GPUs go into the pod's own resources, requests equal to limits;
concurrency policy, history limits and the orchestrator's service account count for the pipeline and not for a step.
"""

from __future__ import annotations

from typing import Any

from stacks.spec import Resources, StackFile

USER = 10001
"""Of the trainer image."""
POD_CONTEXT = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_CONTEXT = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""What Pod Security "restricted" asks of a container besides."""
SHARED_MEMORY = "shared-memory"
ORCHESTRATOR_MEMORY, ORCHESTRATOR_CPU = "512Mi", "100m"
"""Of the pod that starts the steps' Jobs and waits for them."""


def pipeline_settings(stack: StackFile) -> dict[str, Any]:
    """Settings of the whole pipeline, for the key `orchestrator`."""
    place, limits = stack.orchestrator, stack.schedule
    small = Resources(cpu=ORCHESTRATOR_CPU, memory=ORCHESTRATOR_MEMORY)
    settings: dict[str, Any] = {
        "concurrency_policy": "Forbid",
        "starting_deadline_seconds": limits.starting_deadline_seconds,
        "active_deadline_seconds": limits.deadline_seconds,
        "successful_jobs_history_limit": limits.keep_successful,
        "failed_jobs_history_limit": limits.keep_failed,
        "ttl_seconds_after_finished": place.keep_seconds,
        "pod_stop_grace_period": place.stop_seconds,
        "job_name_prefix": "text2sql",
        "orchestrator_pod_settings": pod_settings(small, stack),
    }
    if place.service_account:
        settings["service_account_name"] = place.service_account
    return settings


def step_settings(stack: StackFile, step: str) -> dict[str, Any]:
    """Settings of one step, for the key `orchestrator`."""
    resources = stack.of(step)
    settings: dict[str, Any] = {"pod_settings": pod_settings(resources, stack)}
    if resources.service_account:
        settings["step_pod_service_account_name"] = resources.service_account
    return settings


def pod_settings(resources: Resources, stack: StackFile) -> dict[str, Any]:
    """The fields of ZenML's KubernetesPodSettings; their values are in Kubernetes' own spelling."""
    place = stack.orchestrator
    volumes, mounts = _volumes(resources)
    settings: dict[str, Any] = {
        "resources": container_resources(resources, stack),
        "node_selectors": node_selector(resources, stack),
        "tolerations": [
            {key: value for key, value in t.model_dump().items() if value is not None} for t in resources.tolerations
        ],
        "volumes": volumes,
        "volume_mounts": mounts,
        "env": _environment(resources) + _secrets(resources),
        "additional_pod_spec_args": {"security_context": POD_CONTEXT},
    }
    if place.pod_security == "restricted":
        settings["container_security_context"] = CONTAINER_CONTEXT
    return {name: value for name, value in settings.items() if value}


def container_resources(resources: Resources, stack: StackFile) -> dict[str, dict[str, str]]:
    """Requests and limits. CPU has no limit: a busy neighbour is throttled by its share, an idle one need not be."""
    requests = {"cpu": resources.cpu, "memory": resources.memory}
    if resources.gpus:
        requests[stack.orchestrator.gpu_resource] = str(resources.gpus)
    given = {name: value for name, value in requests.items() if value is not None}
    limits = {name: value for name, value in given.items() if name != "cpu"}
    return {kind: values for kind, values in (("requests", given), ("limits", limits)) if values}


def node_selector(resources: Resources, stack: StackFile) -> dict[str, str]:
    """Labels of the nodes that a step may run on, its GPU type among them."""
    wanted = dict(resources.node_selector)
    if resources.gpu_type:
        wanted[stack.orchestrator.gpu_label] = resources.gpu_type
    return wanted


def _volumes(resources: Resources) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    for number, (claim, path) in enumerate(resources.volumes.items()):
        name = f"claim-{number}"  # a claim's name may be longer than a volume's, and have dots
        volumes.append({"name": name, "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": name, "mountPath": path})
    if resources.shared_memory:
        volumes.append({"name": SHARED_MEMORY, "emptyDir": {"medium": "Memory", "sizeLimit": resources.shared_memory}})
        mounts.append({"name": SHARED_MEMORY, "mountPath": "/dev/shm"})  # noqa: S108 - where PyTorch looks
    return volumes, mounts


def _environment(resources: Resources) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in resources.environment.items()]


def _secrets(resources: Resources) -> list[dict[str, Any]]:
    return [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": where.split("/")[0], "key": where.split("/", 1)[1]}}}
        for variable, where in resources.secrets.items()
    ]
