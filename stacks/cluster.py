"""A stack's cluster, asked before a run: does it have what the steps need, and may we do what will be done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from stacks.kubernetes import node_selector
from text2sql.deployment.kubernetes.api import Cluster
from text2sql.deployment.kubernetes.preflight import Access, Findings, Pod, preflight
from text2sql.errors import StackError

if TYPE_CHECKING:
    from stacks.spec import StackFile

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


def pods_of(stack: StackFile, steps: Iterable[str]) -> list[Pod]:
    """The pods of a run, as the preflight asks about them."""
    place = stack.orchestrator
    pods = [Pod("orchestrator", service_account=place.service_account)] if place.kind == "kubernetes" else []
    for step in steps:
        resources = stack.of(step)
        pods.append(
            Pod(
                step,
                node_selector(resources, stack),
                place.gpu_resource,
                resources.gpus,
                tuple(resources.volumes),
                tuple((where.split("/")[0], where.split("/", 1)[1]) for where in resources.secrets.values()),
                resources.service_account if place.kind == "kubernetes" else place.service_account,
            )
        )
    return pods


def check_cluster(stack: StackFile, steps: Iterable[str], scheduled: bool = False) -> list[str]:
    """Ask the cluster, where it can be asked from here; what could not be asked, a line each.

    Raises:
        StackError: the cluster lacks something; every lack on a line of its own.
        DeploymentError: the cluster cannot be reached.
    """
    place = stack.orchestrator
    client = cluster_client(place.context)
    if client is None:
        return ["the cluster was not asked beforehand: there is no context for it here"]
    namespace = place.user_namespace or place.namespace
    accesses = ACCESSES + (SCHEDULED if scheduled else ()) if place.kind == "kubernetes" else ()
    cluster = Cluster(client, namespace, PATIENCE)
    found: Findings = preflight(cluster, pods_of(stack, steps), accesses, place.nodes == "fixed")
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
