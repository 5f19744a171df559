"""A step on several nodes: the JobSet of its pods, and the pod that the orchestrator starts in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from stacks import cluster
from stacks.files import read_stack
from stacks.kubeflow import apply_resources
from stacks.kubernetes import step_settings
from stacks.nodes import check_settings, pod_of, training_job
from stacks.place import planned_place
from stacks.spec import StackFile
from tests.stacks.api_server import ApiServer
from tests.training_fixtures import tiny_settings
from text2sql.deployment.kubernetes.lint import lint
from text2sql.deployment.kubernetes.nodes import TEMPLATE, complete
from text2sql.errors import StackError

FIELDS = {
    "TEXT2SQL_POD": "metadata.name",
    "TEXT2SQL_POD_UID": "metadata.uid",
    "TEXT2SQL_POD_NAMESPACE": "metadata.namespace",
}


def on_nodes(name: str, **changes: Any) -> StackFile:
    """A shipped stack, its finetune step on two nodes of four GPUs."""
    stack = read_stack(name)
    finetune = stack.steps["finetune"].model_copy(update={"gpus": 4, "nodes": 2, **changes})
    return stack.model_copy(update={"steps": {**stack.steps, "finetune": finetune}})


@pytest.fixture
def job() -> dict[str, Any]:
    return complete(training_job(on_nodes("kubernetes"), "finetune"), "text2sql-0a1b", ("pod", "uid"), ["torchrun"])


def test_its_pods_are_accepted_in_a_restricted_namespace(job: dict[str, Any]):
    """JobSet has no schema here; that of the Job in it is Kubernetes' own."""
    assert lint([job], restricted=True) == []
    [replicated] = job["spec"]["replicatedJobs"]
    inner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "node"},
        "spec": replicated["template"]["spec"],
    }
    kubernetes_validate.validate(inner, "1.36", strict=True)


def test_its_pods_get_all_that_the_step_asks_for(job: dict[str, Any]):
    [replicated] = job["spec"]["replicatedJobs"]
    spec = replicated["template"]["spec"]
    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (2, 2, 0)
    assert job["spec"]["failurePolicy"] == {"maxRestarts": 0}
    pod = spec["template"]["spec"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("zenml-service-account", False)
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-A10G"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["terminationGracePeriodSeconds"] == 120
    [container] = pod["containers"]
    assert container["image"] == "registry.example.com/text2sql/trainer:0.1.0"
    assert container["resources"]["limits"] == {"memory": "32Gi", "nvidia.com/gpu": "4"}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/mnt/text2sql", "/dev/shm"}
    names = {variable["name"] for variable in container["env"]}
    assert names == {"TEXT2SQL_CACHE", "HF_HOME", "HF_TOKEN", "PET_NODE_RANK"}


def test_the_steps_own_pod_needs_no_gpu_and_knows_who_it_is():
    """As ZenML's Kubernetes orchestrator sends it."""
    from kubernetes import client
    from zenml.integrations.kubernetes.manifest_utils import build_pod_manifest
    from zenml.integrations.kubernetes.pod_settings import KubernetesPodSettings

    stack = on_nodes("kubernetes")
    settings = step_settings(stack, pod_of(stack, "finetune"))["pod_settings"]
    built = build_pod_manifest("p", "i", ["c"], [], False, KubernetesPodSettings(**settings))
    manifest = client.ApiClient().sanitize_for_serialization(built)
    kubernetes_validate.validate(manifest, "1.36", strict=True)
    [container] = manifest["spec"]["containers"]
    assert container["resources"]["limits"] == {"memory": "4Gi"}
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/mnt/text2sql"]
    assert not settings.keys() & {"node_selectors", "tolerations"}
    variables = {variable["name"]: variable for variable in container["env"]}
    assert json.loads(variables[TEMPLATE]["value"]) == training_job(stack, "finetune")
    assert {name: variables[name]["valueFrom"]["fieldRef"]["fieldPath"] for name in FIELDS} == FIELDS


def test_the_steps_own_pod_on_kubeflow(tmp_path: Path):
    from kfp import compiler, dsl

    stack = on_nodes("kubeflow")

    @dsl.container_component
    def finetune():  # kfp reads annotations, and these would be texts
        return dsl.ContainerSpec(image="i:1", command=["c"])

    @dsl.pipeline(name="p")
    def whole():
        apply_resources(finetune(), pod_of(stack, "finetune"), stack)

    compiler.Compiler().compile(whole, str(tmp_path / "p.yaml"))
    spec, platform = yaml.safe_load_all((tmp_path / "p.yaml").read_text())
    container = spec["deploymentSpec"]["executors"]["exec-finetune"]["container"]
    assert "accelerator" not in container["resources"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert json.loads(environment[TEMPLATE]) == training_job(stack, "finetune")
    extra = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-finetune"]
    assert {entry["name"]: entry["fieldPath"] for entry in extra["fieldPathAsEnv"]} == FIELDS
    assert [mount["mountPath"] for mount in extra["pvcMount"]] == ["/mnt/text2sql"]


def test_other_steps_and_one_node_stay_as_they_are():
    stack = on_nodes("kubernetes", nodes=1)
    assert pod_of(stack, "finetune") == stack.of("finetune")
    assert TEMPLATE not in pod_of(on_nodes("kubernetes"), "merge").environment


def test_settings_that_cannot_work_are_told_before_the_run(tiny_model: Path):
    stack = on_nodes("kubernetes")
    check_settings(stack, ["merge"], tiny_settings(tiny_model, Path("/elsewhere")))
    check_settings(stack, ["finetune"], tiny_settings(tiny_model, Path("/mnt/text2sql")))
    with pytest.raises(
        StackError, match=r"^steps\.finetune: training\.checkpoint_dir '/elsewhere/checkpoints' is on no"
    ):
        check_settings(stack, ["finetune"], tiny_settings(tiny_model, Path("/elsewhere")))


def test_a_dry_run_says_how_many(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stacks.place.read_stack", on_nodes)
    assert planned_place("kubernetes").needs("finetune").startswith("2 nodes of 4 × NVIDIA-A10G, 4 cores, 32Gi")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A cluster without JobSet, whose claim one node can mount, and whose account may do little."""
    server = ApiServer()
    server.add("namespaces", "zenml")
    server.add("persistentvolumeclaims", "text2sql-work", "zenml", spec={"accessModes": ["ReadWriteOnce"]})
    server.add("secrets", "hub-token", "zenml", data={"HF_TOKEN": "eA=="})
    server.add("serviceaccounts", "zenml-service-account", "zenml")
    labels = {"nvidia.com/gpu.product": "NVIDIA-A10G"}
    server.add("nodes", "n", metadata={"labels": labels}, spec={}, status={"allocatable": {"nvidia.com/gpu": "2"}})
    server.denied = {("create", "jobsets"), ("list", "events")}
    monkeypatch.setattr(cluster, "cluster_client", lambda _context: server.client())
    yield server
    server.close()


def test_what_the_cluster_lacks_for_it(api: ApiServer):
    with pytest.raises(StackError) as told:
        cluster.check_cluster(on_nodes("kubernetes"), ["ingest", "finetune"])
    who = "for service account zenml-service-account"
    assert str(told.value).splitlines() == [
        (
            "the cluster does not know jobset.x-k8s.io/v1alpha2; install JobSet (https://jobset.sigs.k8s.io), which "
            "Kubeflow Trainer brings along"
        ),
        f"no permission to create jobsets.jobset.x-k8s.io in namespace 'zenml' {who}; ask for a Role with it",
        f"no permission to list events in namespace 'zenml' {who}; ask for a Role with it",
        (
            "finetune (node): PersistentVolumeClaim 'text2sql-work' is ReadWriteOnce, and several nodes write to it; "
            "make one with ReadWriteMany"
        ),
        "finetune (node): 4 nvidia.com/gpu on one node, the best fitting node has 2",
    ]
    assert cluster.check_cluster(on_nodes("kubernetes", nodes=1, gpus=1), ["finetune"]) == []
