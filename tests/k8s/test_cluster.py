"""Every overlay before a real API server, with TEXT2SQL_TEST_CLUSTER=1: no pod of them has to come up."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest

from tests.deployment.kubernetes.conftest import REAL, Place, bare, kubeconfig  # noqa: F401 - fixtures
from tests.k8s.test_overlays import ADAPTER, OVERLAYS, RELEASE, one, render
from text2sql.deployment.kubernetes import manifests
from text2sql.deployment.kubernetes.api import APPLY
from text2sql.deployment.kubernetes.dry_run import dry_run

pytestmark = pytest.mark.skipif(not REAL, reason="TEXT2SQL_TEST_CLUSTER=1 asks a real API server")

OPERATORS = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "HTTPRoute"}
"""Kinds that a plain cluster does not have; gpu-multi-operators alone has them."""
FIRES_SECONDS = 90.0


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_api_server_takes_all_of_it_and_what_the_deploy_step_makes_of_it(bare: Place, overlay: str):  # noqa: F811
    documents = render(overlay)
    base = manifests.rendered(documents, bare.namespace)
    server = manifests.server(base, RELEASE, f"s3://bucket/models/{RELEASE.digest}", ADAPTER)
    served = manifests.Served(RELEASE, "s3://bucket/models", server, manifests.service(base, RELEASE))
    made = [server, served.service, manifests.candidate(served), manifests.candidate_service(base, RELEASE)]
    made.append(manifests.releases(bare.namespace, served, served))
    tried = dry_run(bare.cluster(), [*documents, *made])
    assert tried.problems == []
    unknown = {note.split()[0] for note in tried.notes if "this cluster knows no" in note}
    assert unknown <= (OPERATORS if overlay == "gpu-multi-operators" else set())
    assert tried.taken > len(documents), "pods of the workloads too"


def test_pod_security_is_enforced_there(bare: Place):  # noqa: F811
    """Or the test above would show nothing about it."""
    deployment = copy.deepcopy(one("dev", "Deployment", "text2sql-server"))
    del deployment["spec"]["template"]["spec"]["securityContext"]
    [problem] = dry_run(bare.cluster(), [deployment]).problems
    assert "violates PodSecurity" in problem


@pytest.mark.timeout(400)
def test_the_retraining_fires_and_never_overlaps(bare: Place):  # noqa: F811
    """Every minute, while the first run of it does not end: its pod finds no GPU, claim or image."""
    cluster, space = bare.cluster(), bare.namespace
    account = f"/api/v1/namespaces/{space}/serviceaccounts/text2sql-deploy"
    job = copy.deepcopy(one("gpu-multi", "CronJob", "text2sql-retrain"))
    job["metadata"]["namespace"] = space
    job["spec"]["schedule"] = "* * * * *"
    how = {"fieldManager": "tests", "fieldValidation": "Strict"}
    if cluster.ask("GET", f"/api/v1/namespaces/{space}/serviceaccounts/default").status == 404:
        pytest.skip("no controllers run in this cluster: nothing would fire")
    made = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "text2sql-deploy"}}
    assert cluster.ask("PATCH", account, how, made, APPLY).ok
    path = f"/apis/batch/v1/namespaces/{space}/cronjobs/text2sql-retrain"
    assert cluster.ask("PATCH", path, how, job, APPLY).ok

    def jobs() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = cluster.ask("GET", f"/apis/batch/v1/namespaces/{space}/jobs").said["items"]
        return found

    def told() -> set[str]:
        return {e["reason"] for e in cluster.list("Event", fieldSelector="involvedObject.name=text2sql-retrain")}

    deadline = time.monotonic() + 2 * FIRES_SECONDS
    while "JobAlreadyActive" not in told():
        assert time.monotonic() < deadline, f"it fired {len(jobs())} times, and said {told()}"
        time.sleep(2)
    [run] = jobs()
    assert run["metadata"]["ownerReferences"][0]["name"] == "text2sql-retrain"
    assert not (run.get("status") or {}).get("succeeded")
