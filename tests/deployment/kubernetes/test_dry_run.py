"""What an API server says of manifests without keeping them: of a stand-in here, of a real one in tests/k8s."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.stacks.api_server import ApiServer
from text2sql.deployment.kubernetes.api import Cluster
from text2sql.deployment.kubernetes.dry_run import dry_run
from text2sql.errors import DeploymentError

POD = {"metadata": {"labels": {"a": "b"}}, "spec": {"serviceAccountName": "own", "containers": [{"name": "c"}]}}
DOCUMENTS: list[dict[str, Any]] = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "text2sql"}},
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "text2sql"}},
    {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"template": POD}},
    {"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor", "metadata": {"name": "m"}, "spec": {}},
]


@pytest.fixture
def server() -> Iterator[ApiServer]:
    server = ApiServer()
    server.add("namespaces", "tries")
    core = [("Namespace", "namespaces", False), ("ConfigMap", "configmaps", True), ("Pod", "pods", True)]
    server.kinds["/api/v1"] = [{"kind": kind, "name": name, "namespaced": scope} for kind, name, scope in core]
    status = {"kind": "Deployment", "name": "deployments/status", "namespaced": True}
    server.kinds["/apis/apps/v1"] = [{**status, "name": "deployments"}, status]
    yield server
    server.close()


def cluster(server: ApiServer, namespace: str = "tries") -> Cluster:
    return Cluster(server.client(), namespace, patience=0.5)


def test_a_kind_that_is_not_there_is_no_fault_and_nothing_is_kept(server: ApiServer):
    tried = dry_run(cluster(server), DOCUMENTS)
    assert (tried.taken, tried.problems) == (4, []), "pods of the Deployment too"
    assert tried.notes == ["ServiceMonitor m: this cluster knows no ServiceMonitor of monitoring.coreos.com/v1"]
    asked = [path.split("?") for method, path in server.requests if method != "GET"]
    assert [path for path, _ in asked] == [
        "/api/v1/namespaces/text2sql",
        "/api/v1/namespaces/tries/configmaps/c",
        "/apis/apps/v1/namespaces/tries/deployments/d",
        "/api/v1/namespaces/tries/pods",
    ]
    assert all("dryRun=All" in query and "fieldValidation=Strict" in query for _, query in asked)


def test_refusals_and_pod_security_are_problems_and_other_warnings_notes(server: ApiServer):
    server.errors = {("POST", "pods"): 403}
    server.warnings = {"Deployment": 'would violate PodSecurity "restricted:latest"', "ConfigMap": "old hat"}
    tried = dry_run(cluster(server), DOCUMENTS[:3])
    assert [problem.split(": ")[0] for problem in tried.problems] == ["Deployment d", "pods of Deployment d"]
    assert tried.problems[1] == "pods of Deployment d: 403 as the test wants it"
    assert tried.notes == ['ConfigMap c: 299 - "old hat"']


def test_a_field_that_a_kind_does_not_have_is_a_problem_and_no_broken_server(server: ApiServer):
    server.errors = {("PATCH", "deployments"): 500}
    server.words = "failed to create typed patch object (tries/d; apps/v1, Kind=Deployment): .spec.x: not declared"
    tried = dry_run(cluster(server), DOCUMENTS[:3])
    assert tried.problems == [f"Deployment d: 500 {server.words}"]
    server.words = "etcdserver: request timed out"
    with pytest.raises(DeploymentError, match="does not answer in 0.5 s"):
        dry_run(cluster(server), DOCUMENTS[:3])


def test_without_a_namespace_nothing_can_be_tried(server: ApiServer):
    with pytest.raises(DeploymentError, match="namespace nowhere is not there"):
        dry_run(cluster(server, "nowhere"), DOCUMENTS)
