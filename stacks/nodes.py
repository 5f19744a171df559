"""A step on several nodes: its pods as a JobSet, and the small pod that makes the JobSet and watches it.

JobSet is what Kubeflow Trainer itself builds its jobs of. The manifest travels in the small pod's environment, whoever
the orchestrator is; text2sql/deployment/kubernetes/nodes.py gives it a name, an owner and a command there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from stacks.kubernetes import (
    CONTAINER_CONTEXT,
    POD_CONTEXT,
    account_of,
    container_resources,
    environment_of,
    node_selector,
    tolerations_of,
    volumes_of,
)
from stacks.spec import Resources, StackFile
from text2sql.config import Settings
from text2sql.deployment.kubernetes.nodes import CONTAINER, INDEX, NODE, TEMPLATE, check_shared
from text2sql.errors import StackError, TrainingError


def training_job(stack: StackFile, step: str) -> dict[str, Any]:
    """The JobSet of a step's nodes. One that fails ends all: the step is tried again as a whole, from a checkpoint."""
    resources = stack.of(step)
    job = {
        "completionMode": "Indexed",
        "completions": resources.nodes,
        "parallelism": resources.nodes,
        "backoffLimit": 0,
        "activeDeadlineSeconds": stack.schedule.deadline_seconds,
        "template": {"metadata": {"labels": _labels(step)}, "spec": _pod(resources, stack)},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"labels": {"app.kubernetes.io/name": "text2sql"}},
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": {"maxRestarts": 0},
            "replicatedJobs": [{"name": NODE, "replicas": 1, "template": {"spec": job}}],
        },
    }


def _labels(step: str) -> dict[str, str]:
    labels = {"app.kubernetes.io/name": "text2sql", "app.kubernetes.io/component": step}
    return {**labels, "sidecar.istio.io/inject": "false"}  # a sidecar never ends, and knows nothing of NCCL


def _pod(resources: Resources, stack: StackFile) -> dict[str, Any]:
    volumes, mounts = volumes_of(resources)
    rank = {"fieldPath": f"metadata.annotations['{INDEX}']"}
    container = {
        "name": CONTAINER,
        "image": resources.image or stack.image,
        "resources": container_resources(resources, stack),
        "volumeMounts": mounts,
        "env": [*environment_of(resources), {"name": "PET_NODE_RANK", "valueFrom": {"fieldRef": rank}}],
        "securityContext": CONTAINER_CONTEXT,
    }
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": stack.orchestrator.stop_seconds,
        "serviceAccountName": account_of(resources, stack),
        "automountServiceAccountToken": False,  # only the pod that makes the JobSet talks to the cluster
        "enableServiceLinks": False,
        "securityContext": POD_CONTEXT,
        "nodeSelector": node_selector(resources, stack),
        "tolerations": tolerations_of(resources),
        "volumes": volumes,
        "containers": [container],
    }
    return {name: value for name, value in spec.items() if value not in (None, {}, [])}


def pod_of(stack: StackFile, step: str) -> Resources:
    """What the pod gets that ZenML starts for a step: all that it needs, or what it takes to watch over its nodes."""
    resources = stack.of(step)
    if resources.nodes == 1:
        return resources
    kept = ("volumes", "secrets", "service_account", "image", "retries", "needs")
    mine = {name: getattr(resources, name) for name in kept}
    mine["environment"] = {**resources.environment, TEMPLATE: json.dumps(training_job(stack, step))}
    small = {name: getattr(stack.defaults, name) for name in stack.defaults.model_fields_set}
    return Resources.model_validate({**small, **mine})


def check_settings(stack: StackFile, steps: Sequence[str], settings: Settings) -> None:
    """Raises StackError where a run with these settings cannot work on several nodes."""
    for step in steps:
        if stack.of(step).nodes > 1:
            try:
                check_shared(training_job(stack, step), settings)
            except TrainingError as error:
                raise StackError(f"steps.{step}: {error}") from error
