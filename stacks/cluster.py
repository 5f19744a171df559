"""A stack's cluster, asked before a run: does it have what the steps need, and may we do what will be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stacks.kubernetes import account_of, node_selector
from stacks.nodes import pod_of
from text2sql.deployment.kubernetes.api import Cluster
from text2sql.deployment.kubernetes.nodes import GROUP, NEEDED
from text2sql.deployment.kubernetes.preflight import Access, Findings, Pod, preflight
from text2sql.errors import StackError

if TYPE_CHECKING:
    from stacks.spec import Resources, StackFile

PATIENCE = 10.0
"""Seconds for a cluster that is busy or out of reach; nothing has begun yet."""
ACCESSES = (
    Access("create", "jobs", "batch"),
    Access("get", "jobs", "batch"),
    Access("list", "pods"),
    Access("get", "pods/log"),
)
"""What ZenML's client does to run a pipeline."""
SCHEDULED = (
    Access("create", "cronjobs", "batch"),
    Access("patch", "cronjobs", "batch"),
    Access("delete", "cronjobs", "batch"),
)


ON_NODES = (
    *(Access(verb, "jobsets", "jobset.x-k8s.io") for verb in ("create", "get", "delete")),
    *(Access(verb, "pods") for verb in ("get", "list")),
    Access("get", "pods/log"),
    Access("list", "events"),
)
"""What the pod of a step on several nodes does; Role text2sql-nodes of docs/kubernetes.md grants it."""


def pods_of(stack: StackFile, steps: Sequence[str]) -> list[Pod]:
    """The pods of a run, as the preflight asks about them."""
    place = stack.orchestrator
    pods = [Pod("orchestrator", service_account=place.service_account)] if place.kind == "kubernetes" else []
    for step in steps:
        pods.append(_pod(stack, step, pod_of(stack, step)))
        if stack.of(step).nodes > 1:
            pods.append(_pod(stack, f"{step} (node)", stack.of(step)))
    return pods


def _pod(stack: StackFile, who: str, resources: Resources) -> Pod:
    place = stack.orchestrator
    return Pod(
        who,
        node_selector(resources, stack),
        place.gpu_resource,
        resources.gpus,
        tuple(resources.volumes),
        tuple((where.split("/")[0], where.split("/", 1)[1]) for where in resources.secrets.values()),
        account_of(resources, stack),
        many=resources.nodes > 1,
    )


def accesses(stack: StackFile, steps: Sequence[str], scheduled: bool) -> list[Access]:
    """What will be done there, by who asks and by the pods that make JobSets."""
    done = [*ACCESSES, *(SCHEDULED if scheduled else ())] if stack.orchestrator.kind == "kubernetes" else []
    for account in {account_of(stack.of(step), stack) for step in steps if stack.of(step).nodes > 1} - {None}:
        done += [replace(access, account=account) for access in ON_NODES]
    return done


def check_cluster(stack: StackFile, steps: Sequence[str], scheduled: bool = False) -> list[str]:
    """Ask the cluster, where it can be asked from here; what could not be asked, a line each.

    Raises:
        StackError: the cluster lacks something; every lack on a line of its own.
        DeploymentError: the cluster cannot be reached.
    """
    place = stack.orchestrator
    client = cluster_client(place.context)
    if client is None:
        return ["the cluster was not asked beforehand: there is no context for it here"]
    cluster = Cluster(client, place.user_namespace or place.namespace, PATIENCE)
    kinds = {GROUP: NEEDED} if any(stack.of(step).nodes > 1 for step in steps) else {}
    found: Findings = preflight(
        cluster, pods_of(stack, steps), accesses(stack, steps, scheduled), place.nodes == "fixed", kinds
    )
    if found.problems:
        raise StackError("\n".join(found.problems))
    return found.notes


def cluster_client(context: str | None) -> Any:
    """An API client for a context of the kubeconfig, or for the cluster this process runs in; None where neither is."""
    from kubernetes import client, config

    settings = client.Configuration()
    try:
        if context is None:
            config.load_incluster_config(client_configuration=settings)
        else:
            config.load_kube_config(context=context, client_configuration=settings)
    except config.ConfigException as error:
        if context is None:
            return None
        raise StackError(f"context {context!r} cannot be used: {' '.join(str(error).split())}") from error
    settings.retries = False
    return client.ApiClient(settings)
