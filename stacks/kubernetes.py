"""The resource spec in the words of ZenML's Kubernetes orchestrator. Pure functions: dicts in, dicts out.

Traps of ZenML 0.98: ResourceSettings are ignored, so GPUs go into the pod's own resources, requests equal to limits;
concurrency policy, history limits and the orchestrator's service account count for the pipeline and not for a step.
"""

from __future__ import annotations

from typing import Any

from stacks.spec import Resources, StackFile
from text2sql.deployment.kubernetes.nodes import NAMESPACE, POD, TEMPLATE, UID

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
POD_FIELDS = {POD: "metadata.name", UID: "metadata.uid", NAMESPACE: "metadata.namespace"}
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


def step_settings(stack: StackFile, resources: Resources) -> dict[str, Any]:
    """Settings of one step, for the key `orchestrator`."""
    settings: dict[str, Any] = {"pod_settings": pod_settings(resources, stack)}
    if resources.service_account:
        settings["step_pod_service_account_name"] = resources.service_account
    return settings


def pod_settings(resources: Resources, stack: StackFile) -> dict[str, Any]:
    """The fields of ZenML's KubernetesPodSettings; their values are in Kubernetes' own spelling."""
    place = stack.orchestrator
    volumes, mounts = volumes_of(resources)
    settings: dict[str, Any] = {
        "resources": container_resources(resources, stack),
        "node_selectors": node_selector(resources, stack),
        "tolerations": tolerations_of(resources),
        "volumes": volumes,
        "volume_mounts": mounts,
        "env": environment_of(resources),
        # A Service called text2sql would set TEXT2SQL_PORT to its own address, which is a setting of ours.
        "additional_pod_spec_args": {"security_context": POD_CONTEXT, "enable_service_links": False},
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


def account_of(resources: Resources, stack: StackFile) -> str | None:
    """The service account of a step's pod; on Kubeflow all pods have one."""
    own = resources.service_account if stack.orchestrator.kind == "kubernetes" else None
    return own or stack.orchestrator.service_account


def tolerations_of(resources: Resources) -> list[dict[str, Any]]:
    return [{key: value for key, value in t.model_dump().items() if value is not None} for t in resources.tolerations]


def volumes_of(resources: Resources) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Volumes of the pod, and where its container mounts them."""
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


def environment_of(resources: Resources) -> list[dict[str, Any]]:
    """Of the container; a pod that makes a JobSet knows who it is."""
    found: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in resources.environment.items()]
    for variable, where in resources.secrets.items():
        secret, _, key = where.partition("/")
        found.append({"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    if TEMPLATE in resources.environment:
        found += [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in POD_FIELDS.items()]
    return found
