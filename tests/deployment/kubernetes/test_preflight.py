"""What a cluster lacks is told beforehand, all at once, and what must not be asked is no obstacle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.deployment.kubernetes.conftest import Place
from tests.stacks.api_server import ApiServer
from text2sql.deployment.kubernetes.api import Cluster
from text2sql.deployment.kubernetes.preflight import Access, Pod, preflight
from text2sql.errors import DeploymentError

SPACE = "training"
FINETUNE = Pod(
    "finetune",
    node_selector={"nvidia.com/gpu.product": "NVIDIA-A10G"},
    gpus=1,
    claims=("work",),
    secrets=(("hub-token", "HF_TOKEN"),),
    service_account="pipelines",
)
CREATE = Access("create", "jobs", "batch")


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """A cluster that has all that is wanted."""
    server = ApiServer()
    server.add("namespaces", SPACE)
    server.add("persistentvolumeclaims", "work", SPACE, status={"phase": "Bound"})
    server.add("secrets", "hub-token", SPACE, data={"HF_TOKEN": "eA=="})
    server.add("serviceaccounts", "pipelines", SPACE)
    labels = {"nvidia.com/gpu.product": "NVIDIA-A10G"}
    server.add("nodes", "gpu", metadata={"labels": labels}, spec={}, status={"allocatable": {"nvidia.com/gpu": "2"}})
    server.add("nodes", "cpu", metadata={"labels": {}}, spec={}, status={"allocatable": {}})
    yield server
    server.close()


def problems(server: ApiServer, *pods: Pod, accesses: tuple[Access, ...] = (CREATE,), **more: Any) -> list[str]:
    return preflight(cluster(server), pods or (FINETUNE,), accesses, **more).problems


def cluster(server: ApiServer) -> Cluster:
    return Cluster(server.client(), SPACE, patience=0.5)


def test_nothing_is_wrong_and_nothing_is_changed(server: ApiServer):
    found = preflight(cluster(server), [FINETUNE], [CREATE])
    assert (found.problems, found.notes) == ([], [])
    changing = [request for request in server.requests if request[0] != "GET"]
    assert [path for _, path in changing] == ["/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"]


def test_everything_that_lacks_at_once(server: ApiServer):
    server.denied.add(("create", "jobs"))
    wanting = Pod("a", {"nvidia.com/gpu.product": "H100"}, claims=["gone"], secrets=[("gone", "x"), ("hub-token", "x")])
    other = Pod("b", claims=["gone"], service_account="nobody", gpus=1)
    assert problems(server, wanting, other) == [
        "no permission to create jobs.batch in namespace 'training'; ask for a Role with it",
        "a, b: there is no PersistentVolumeClaim 'gone' in namespace 'training'",
        "a: there is no Secret 'gone' in namespace 'training'",
        "a: Secret 'hub-token' has no key 'x'; its keys: HF_TOKEN",
        "b: there is no ServiceAccount 'nobody' in namespace 'training'",
        "a: no node has nvidia.com/gpu.product=H100; nodes have: NVIDIA-A10G",
    ]


def test_more_gpus_than_a_node_has(server: ApiServer):
    [line] = problems(server, Pod("a", FINETUNE.node_selector, gpus=4))
    assert line == "a: 4 nvidia.com/gpu on one node, the best fitting node has 2"


def test_a_node_that_takes_no_pods_does_not_count(server: ApiServer):
    server.objects[None, "nodes"]["gpu"]["spec"] = {"unschedulable": True}
    [line] = problems(server)
    assert "no node has nvidia.com/gpu.product=NVIDIA-A10G; nodes have: no such label" in line


def test_nodes_that_may_yet_come_are_not_missed(server: ApiServer):
    assert problems(server, Pod("a", {"nvidia.com/gpu.product": "H100"}, gpus=8), fixed_nodes=False) == []


def test_a_namespace_that_is_not_there_is_the_only_problem(server: ApiServer):
    del server.objects[None, "namespaces"][SPACE]
    [line] = problems(server)
    assert line.startswith("namespace 'training' is not there; create it with `kubectl create namespace training`")


def test_what_must_not_be_read_is_a_note(server: ApiServer):
    server.errors = {("GET", "nodes"): 403, ("GET", "secrets"): 403, ("GET", "namespaces"): 403}
    found = preflight(cluster(server), [FINETUNE], [CREATE])
    assert found.problems == []
    assert [note.split()[0] for note in found.notes] == ["namespaces", "secrets", "nodes"]


@pytest.mark.parametrize(
    ("status", "words"), [(401, "refuses to tell of namespaces: 401"), (500, r"does not answer in 0.5 s \(500")]
)
def test_a_cluster_that_refuses_to_talk(server: ApiServer, status: int, words: str):
    server.errors = {("GET", "namespaces"): status}
    with pytest.raises(DeploymentError, match=words):
        problems(server)


def test_a_cluster_that_is_not_there():
    server = ApiServer()
    gone = cluster(server)
    server.close()
    with pytest.raises(DeploymentError, match="does not answer in .*check the context of your kubeconfig"):
        preflight(gone, [])


JOBSETS = {"jobset.x-k8s.io/v1alpha2": "install JobSet"}
MAKES = Access("create", "jobsets", "jobset.x-k8s.io", account="pipelines")


def test_a_kind_that_the_cluster_does_not_know(server: ApiServer):
    assert problems(server, kinds=JOBSETS) == ["the cluster does not know jobset.x-k8s.io/v1alpha2; install JobSet"]
    server.kinds["/apis/jobset.x-k8s.io/v1alpha2"] = []
    assert problems(server, kinds=JOBSETS) == []


def test_what_a_pod_will_do_is_asked_for_its_account(server: ApiServer):
    assert problems(server, accesses=(MAKES,)) == []
    assert ("POST", f"/apis/authorization.k8s.io/v1/namespaces/{SPACE}/localsubjectaccessreviews") in server.requests
    server.denied.add(("create", "jobsets"))
    assert problems(server, accesses=(MAKES,)) == [
        (
            "no permission to create jobsets.jobset.x-k8s.io in namespace 'training' for service account pipelines; "
            "ask for a Role with it"
        )
    ]


def test_several_nodes_write_to_one_claim(server: ApiServer):
    nodes = replace(FINETUNE, who="finetune (node)", many=True)
    claim = server.objects[SPACE, "persistentvolumeclaims"]["work"]
    claim["spec"] = {"accessModes": ["ReadWriteMany"]}
    assert problems(server, FINETUNE, nodes) == []
    claim["spec"] = {"accessModes": ["ReadWriteOnce"]}
    assert problems(server, FINETUNE, nodes) == [
        (
            "finetune (node): PersistentVolumeClaim 'work' is ReadWriteOnce, and several nodes write to it; "
            "make one with ReadWriteMany"
        )
    ]


def test_what_a_namespace_lacks(bare: Place):
    """Of the stand-in of the deploy step, or of a real cluster."""
    wanting = Pod("finetune", {"no/such": "label"}, gpus=1, claims=["work"], secrets=[("s", "k")])
    found = preflight(bare.cluster(), [wanting], [CREATE])
    told = "\n".join(found.problems + found.notes)
    assert "there is no PersistentVolumeClaim 'work'" in told
    assert "there is no Secret 's'" in told
    assert "no node has no/such=label" in told or (bare.stand_in and "nodes could not be checked" in told)
    bare.namespace = "text2sql-nowhere"
    [line] = preflight(bare.cluster(), [wanting], [CREATE]).problems
    assert line.startswith("namespace 'text2sql-nowhere' is not there")
