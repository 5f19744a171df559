"""The cluster that schedules are made on: a stand-in, or with TEXT2SQL_TEST_CLUSTER=1 that of KUBECONFIG, which needs
no nodes. Either has all that stacks/kubernetes.yaml asks for, in a namespace that goes again.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.stacks.api_server import ApiServer

REAL = os.environ.get("TEXT2SQL_TEST_CLUSTER") == "1"
CLAIM, SECRET, ACCOUNT = "text2sql-work", "hub-token", "zenml-service-account"
ALL_BUT_CREATING_CRON_JOBS = [
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "get"]},
    {"apiGroups": ["batch"], "resources": ["cronjobs"], "verbs": ["patch", "delete"]},
    {
        "apiGroups": [""],
        "resources": [
            "namespaces",
            "nodes",
            "persistentvolumeclaims",
            "pods",
            "pods/log",
            "secrets",
            "serviceaccounts",
        ],
        "verbs": ["get", "list"],
    },
]


class StandIn:
    """ApiServer, and a kubeconfig that leads there."""

    namespace, context, nodes = "zenml", "kubernetes", "fixed"

    def __init__(self, folder: Path) -> None:
        self.server = ApiServer()
        self.server.add("namespaces", self.namespace)
        self.server.add("serviceaccounts", ACCOUNT, self.namespace)
        self.server.add("persistentvolumeclaims", CLAIM, self.namespace, status={"phase": "Bound"})
        self.server.add("secrets", SECRET, self.namespace, data={"HF_TOKEN": "eA=="})
        labels = {"nvidia.com/gpu.product": "NVIDIA-A10G"}
        gpus = {"allocatable": {"nvidia.com/gpu": "1"}}
        self.server.add("nodes", "gpu", metadata={"labels": labels}, spec={}, status=gpus)
        self.kubeconfig = write_kubeconfig(folder / "kubeconfig", {"server": self.server.host}, "of-the-tests")

    def cron_jobs(self) -> list[dict[str, Any]]:
        return list(self.server.objects.get((self.namespace, "cronjobs"), {}).values())

    @contextmanager
    def poor(self) -> Iterator[Path]:
        """The kubeconfig of a user who may do all but create CronJobs."""
        self.server.denied.add(("create", "cronjobs"))
        try:
            yield self.kubeconfig
        finally:
            self.server.denied.clear()

    def close(self) -> None:
        self.server.close()


class RealCluster:
    """That of KUBECONFIG's current context; GPU nodes are taken to come when they are needed."""

    nodes = "autoscaled"

    def __init__(self, folder: Path) -> None:
        from kubernetes import client, config

        self.kubeconfig, self._folder = Path(os.environ["KUBECONFIG"]), folder
        self.context = str(config.list_kube_config_contexts(str(self.kubeconfig))[1]["name"])
        self._client = config.new_client_from_config(str(self.kubeconfig))
        self.core, self.batch = client.CoreV1Api(self._client), client.BatchV1Api(self._client)
        self._rbac = client.RbacAuthorizationV1Api(self._client)
        self.namespace = f"text2sql-{uuid.uuid4().hex[:8]}"
        self.core.create_namespace({"metadata": {"name": self.namespace}})
        self.core.create_namespaced_service_account(self.namespace, {"metadata": {"name": ACCOUNT}})
        secret = {"metadata": {"name": SECRET}, "stringData": {"HF_TOKEN": "x"}}
        self.core.create_namespaced_secret(self.namespace, secret)
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
        claim = {"metadata": {"name": CLAIM}, "spec": spec}
        self.core.create_namespaced_persistent_volume_claim(self.namespace, claim)

    def cron_jobs(self) -> list[dict[str, Any]]:
        found = self.batch.list_namespaced_cron_job(self.namespace).items
        return [dict(self._client.sanitize_for_serialization(job)) for job in found]

    def jobs(self) -> list[str]:
        return [job.metadata.name for job in self.batch.list_namespaced_job(self.namespace).items]

    def has_controllers(self) -> bool:
        """Whether anybody makes Jobs of CronJobs there."""
        from kubernetes import client

        leases = client.CoordinationV1Api(self._client).list_namespaced_lease("kube-system").items
        return "kube-controller-manager" in [lease.metadata.name for lease in leases]

    @contextmanager
    def poor(self) -> Iterator[Path]:
        """The kubeconfig of a user who may do all but create CronJobs."""
        name = f"{self.namespace}-poor"
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
        subjects = [{"kind": "ServiceAccount", "name": name, "namespace": self.namespace}]
        self.core.create_namespaced_service_account(self.namespace, {"metadata": {"name": name}})
        self._rbac.create_cluster_role({"metadata": {"name": name}, "rules": ALL_BUT_CREATING_CRON_JOBS})
        self._rbac.create_cluster_role_binding({"metadata": {"name": name}, "roleRef": reference, "subjects": subjects})
        token = self.core.create_namespaced_service_account_token(name, self.namespace, {"spec": {}}).status.token
        kubeconfig = yaml.safe_load(self.kubeconfig.read_text())
        wanted = next(entry["context"]["cluster"] for entry in kubeconfig["contexts"] if entry["name"] == self.context)
        cluster = next(entry["cluster"] for entry in kubeconfig["clusters"] if entry["name"] == wanted)
        try:
            yield write_kubeconfig(self._folder / "poor", cluster, token, self.context)
        finally:
            self._rbac.delete_cluster_role_binding(name)
            self._rbac.delete_cluster_role(name)

    def close(self) -> None:
        self.core.delete_namespace(self.namespace)


Cluster = StandIn | RealCluster


def write_kubeconfig(path: Path, cluster: dict[str, Any], token: str, context: str = "kubernetes") -> Path:
    """A kubeconfig of one context."""
    config = {
        "current-context": context,
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": context, "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(yaml.safe_dump(config))
    return path
