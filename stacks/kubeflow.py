"""The resource spec on a task of Kubeflow Pipelines, so that it reaches the IR: kfp's own calls, and no ZenML.

Quantities in the IR have a grammar of their own: what Kubernetes writes as 1.5Gi or 500000k becomes a number of bytes.
"""

from __future__ import annotations

import math
import re
from typing import Any

from stacks.kubernetes import POD_FIELDS, SHARED_MEMORY, node_selector
from stacks.spec import Resources, StackFile
from text2sql.deployment.kubernetes.nodes import TEMPLATE
from text2sql.deployment.kubernetes.syntax import parse_quantity

_MEMORY = re.compile(r"[0-9]+([EPTGMK]i?)?")
_CPU = re.compile(r"[0-9]*\.?[0-9]+m?")


def kfp_memory(quantity: str) -> str:
    """As kfp takes it, rounded up to a byte."""
    return quantity if _MEMORY.fullmatch(quantity) else str(math.ceil(parse_quantity(quantity)))


def kfp_cpu(quantity: str) -> str:
    """As kfp takes it, rounded up to a thousandth of a core."""
    return quantity if _CPU.fullmatch(quantity) else f"{math.ceil(parse_quantity(quantity) * 1000)}m"


def apply_resources(task: Any, resources: Resources, stack: StackFile) -> None:
    """Put all of a step's spec on its `kfp.dsl.PipelineTask`."""
    _compute(task, resources, stack)
    _storage(task, resources)
    _placement(task, resources, stack)
    for name, value in resources.environment.items():
        task.set_env_variable(name=name, value=value)
    if TEMPLATE in resources.environment:
        from kfp import kubernetes

        for name, path in POD_FIELDS.items():
            kubernetes.use_field_path_as_env(task, env_name=name, field_path=path)
    if resources.retries:
        task.set_retry(num_retries=resources.retries)


def _compute(task: Any, resources: Resources, stack: StackFile) -> None:
    if resources.cpu:
        task.set_cpu_request(kfp_cpu(resources.cpu))
    if resources.memory:
        task.set_memory_request(kfp_memory(resources.memory))
        task.set_memory_limit(kfp_memory(resources.memory))
    if resources.gpus:
        task.set_accelerator_type(stack.orchestrator.gpu_resource)
        task.set_accelerator_limit(resources.gpus)


def _storage(task: Any, resources: Resources) -> None:
    from kfp import kubernetes

    for claim, path in resources.volumes.items():
        kubernetes.mount_pvc(task, pvc_name=claim, mount_path=path)
    if resources.shared_memory:
        kubernetes.empty_dir_mount(
            task,
            volume_name=SHARED_MEMORY,
            mount_path="/dev/shm",  # noqa: S108 - where PyTorch looks
            medium="Memory",
            size_limit=resources.shared_memory,
        )
    for variable, where in resources.secrets.items():
        secret, _, key = where.partition("/")
        kubernetes.use_secret_as_env(task, secret_name=secret, secret_key_to_env={key: variable})


def _placement(task: Any, resources: Resources, stack: StackFile) -> None:
    from kfp import kubernetes

    for key, value in node_selector(resources, stack).items():
        kubernetes.add_node_selector(task, label_key=key, label_value=value)
    for toleration in resources.tolerations:
        kubernetes.add_toleration(
            task,
            key=toleration.key,
            operator=toleration.operator,
            value=toleration.value,
            effect=toleration.effect,
        )
    kubernetes.set_timeout(task, seconds=stack.schedule.deadline_seconds)
