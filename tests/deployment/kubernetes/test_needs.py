"""What a release needs is asked for before anything is created, and what lacks is told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.deployment.kubernetes.api_server import StandIn
from tests.deployment.kubernetes.conftest import QUESTIONS, Place, release
from text2sql.config import DeploySection
from text2sql.deployment.kubernetes.manifests import render, rendered
from text2sql.deployment.kubernetes.needs import pods_of
from text2sql.deployment.kubernetes.target import KubernetesTarget, StoredModel
from text2sql.deployment.target import Limits, deploy
from text2sql.errors import DeploymentError

OVERLAYS = Path(__file__).parents[3] / "k8s" / "overlays"
T4 = {"nvidia.com/gpu.product": "Tesla-T4"}
WHO = "Deployment text2sql-server"


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gpu-single on a GPU of one type, rendered once."""
    import yaml

    documents = render(OVERLAYS / "gpu-single")
    server = rendered(documents, "test").deployment["metadata"]["name"]
    [deployment] = [d for d in documents if (d["kind"], d["metadata"]["name"]) == ("Deployment", server)]
    deployment["spec"]["template"]["spec"]["nodeSelector"] = {"nvidia.com/gpu.product": "NVIDIA-A10G"}
    path = tmp_path_factory.mktemp("needs") / "server.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


def node(labels: dict[str, str], gpus: str) -> dict[str, Any]:
    return {"metadata": {"labels": labels}, "spec": {}, "status": {"allocatable": {"nvidia.com/gpu": gpus}}}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of-the-tests")


def go_live(place: Place, manifests: Path, **settings: Any) -> None:
    kubernetes = {"namespace": "test", "manifests": str(manifests), "reach": "api"} | settings
    section = DeploySection.model_validate({"target": "kubernetes", "kubernetes": kubernetes})
    target = KubernetesTarget(section, StoredModel("s3://bucket/model"), place.cluster())
    deploy(target, release("1"), Path(), QUESTIONS, Limits(0.9, 30.0), place.tell)


def test_all_that_lacks_is_told_and_nothing_is_created(place: Place, stand_in: StandIn, manifests: Path):
    stand_in.nodes = [node(T4, "1")]
    stand_in.denied = {"events", "configmaps"}
    with pytest.raises(DeploymentError) as caught:
        go_live(place, manifests)
    assert str(caught.value).removeprefix("model version 1 does not go live: ").splitlines() == [
        "no permission to get configmaps text2sql-releases in namespace 'test'; ask for a Role with it",
        "no permission to patch configmaps text2sql-releases in namespace 'test'; ask for a Role with it",
        "no permission to create configmaps in namespace 'test'; ask for a Role with it",
        "no permission to list events in namespace 'test'; ask for a Role with it",
        f"{WHO}: there is no PersistentVolumeClaim 'models' in namespace 'test'",
        f"{WHO}: there is no Secret 'api-keys' in namespace 'test'",
        f"{WHO}: there is no ConfigMap 'vllm-probe' in namespace 'test'",
        f"{WHO}: there is no ConfigMap 'server' in namespace 'test'",
        f"{WHO}: there is no ServiceAccount 'text2sql-server' in namespace 'test'",
        f"{WHO}: no node has nvidia.com/gpu.product=NVIDIA-A10G; nodes have: Tesla-T4; nothing is served",
    ]
    made = {path.partition("?")[0] for method, path in stand_in.requests if method in ("POST", "PATCH", "PUT")}
    assert {path.rpartition("/")[2] for path in made} == {"leases", "selfsubjectaccessreviews"}
    assert [kind for kind, _ in stand_in.objects] == ["ConfigMap"], "that of the tests"


def test_without_a_key_the_old_server_is_not_ended_for_questions_that_nobody_answers(
    place: Place, stand_in: StandIn, manifests: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(DeploymentError, match="Secret api-keys: .* set OPENAI_API_KEY to one of its keys"):
        go_live(place, manifests)
    assert not [path for method, path in stand_in.requests if method == "PATCH" and "dryRun" not in path]


@pytest.mark.parametrize("gpus", ["0", "1"])
def test_a_node_may_have_too_few_gpus_or_come_later(place: Place, stand_in: StandIn, manifests: Path, gpus: str):
    a10g = node({"nvidia.com/gpu.product": "NVIDIA-A10G"}, gpus)
    for kind, name in (("PersistentVolumeClaim", "models"), ("ServiceAccount", "text2sql-server")):
        stand_in.add(kind, name)
    for name in ("vllm-probe", "server"):
        stand_in.add("ConfigMap", name)
    stand_in.add("Secret", "api-keys", data={"keys.txt": ""})
    stand_in.nodes = [a10g]
    stand_in.denied = {"services"}  # or it would go on
    with pytest.raises(DeploymentError) as caught:
        go_live(place, manifests)
    words = "1 nvidia.com/gpu on one node, the best fitting node has 0"
    assert (words in str(caught.value)) == (gpus == "0")
    with pytest.raises(DeploymentError) as caught:
        go_live(place, manifests, nodes="autoscaled")
    assert words not in str(caught.value)


def test_what_is_optional_is_no_need_and_devices_of_sidecars_add_up():
    spec = {
        "initContainers": [
            {"name": "first", "resources": {"limits": {"nvidia.com/gpu": "4"}}},
            {"name": "beside", "restartPolicy": "Always", "resources": {"limits": {"nvidia.com/gpu": "1"}}},
        ],
        "containers": [
            {
                "name": "main",
                "resources": {"limits": {"nvidia.com/gpu": "2", "cpu": "1"}},
                "env": [
                    {"name": "A", "valueFrom": {"secretKeyRef": {"name": "a", "key": "k"}}},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "b", "key": "k", "optional": True}}},
                    {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
                ],
                "envFrom": [{"secretRef": {"name": "d", "optional": True}}, {"secretRef": {"name": "e"}}],
            }
        ],
        "volumes": [{"name": "v", "secret": {"secretName": "f", "items": [{"key": "x", "path": "x"}]}}],
    }
    [pod] = pods_of({"metadata": {"name": "d"}, "spec": {"template": {"spec": spec}}})
    assert (pod.gpu_resource, pod.gpus) == ("nvidia.com/gpu", 3)
    assert set(pod.secrets) == {("a", "k"), ("e", ""), ("f", "x")}
    assert pod.configs == ["c"]
