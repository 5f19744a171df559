"""What Kubeflow Pipelines is sent: a package that its own protos take, with all that each step needs in it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pipelines import PIPELINES
from stacks.kubeflow import kfp_cpu, kfp_memory
from tests.stacks.compiled import Compiled, compile_for, kfp_package
from text2sql.errors import StackError

if TYPE_CHECKING:
    from stacks.place import Place
    from text2sql.config import Settings

GPU_STEPS = ("finetune", "merge", "evaluate")


@pytest.fixture(scope="module")
def package(on_kubeflow: Compiled) -> tuple[dict[str, Any], dict[str, Any]]:
    return kfp_package(on_kubeflow)


def container(package: tuple[dict[str, Any], dict[str, Any]], step: str) -> dict[str, Any]:
    found: dict[str, Any] = package[0]["deploymentSpec"]["executors"][f"exec-{step.replace('_', '-')}"]["container"]
    return found


def platform(package: tuple[dict[str, Any], dict[str, Any]], step: str) -> dict[str, Any]:
    executors = package[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    found: dict[str, Any] = executors[f"exec-{step.replace('_', '-')}"]
    return found


def test_kfps_own_protos_take_it(package: tuple[dict[str, Any], dict[str, Any]]):
    from google.protobuf import json_format
    from kfp.kubernetes import kubernetes_executor_config_pb2
    from kfp.pipeline_spec import pipeline_spec_pb2

    spec = json_format.ParseDict(package[0], pipeline_spec_pb2.PipelineSpec())
    assert set(spec.root.dag.tasks) == {name.replace("_", "-") for name in PIPELINES["retrain"].steps}
    json_format.ParseDict(package[1], pipeline_spec_pb2.PlatformSpec())
    for executor in package[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        config = json_format.ParseDict(executor, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
        assert config.active_deadline_seconds == 86400


@pytest.mark.parametrize("step", GPU_STEPS)
def test_steps_with_a_model_get_a_gpu_and_all_that_belongs_to_it(package: Any, step: str):
    resources = container(package, step)["resources"]
    assert resources["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert resources["accelerator"]["resourceCount"] == "1"
    assert (resources["resourceMemoryLimit"], resources["resourceMemoryRequest"]) == ("32Gi", "32Gi")
    found = platform(package, step)
    assert found["nodeSelector"]["labels"] == {"nvidia.com/gpu.product": "NVIDIA-A10G"}
    assert found["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    [volume] = found["pvcMount"]
    assert (volume["constant"], volume["mountPath"]) == ("text2sql-work", "/mnt/text2sql")
    [shared] = found["emptyDirMounts"]
    assert (shared["mountPath"], shared["medium"]) == ("/dev/shm", "Memory")
    [secret] = found["secretAsEnv"]
    assert (secret["secretName"], secret["keyToEnv"]) == (
        "hub-token",
        [{"secretKey": "HF_TOKEN", "envVar": "HF_TOKEN"}],
    )
    environment = {entry["name"]: entry["value"] for entry in container(package, step)["env"]}
    assert environment["HF_HOME"] == "/mnt/text2sql/huggingface"


@pytest.mark.parametrize("step", [name for name in PIPELINES["retrain"].steps if name not in GPU_STEPS])
def test_steps_without_a_model_get_none(package: Any, step: str):
    assert "accelerator" not in container(package, step)["resources"]
    assert set(platform(package, step)) == {"activeDeadlineSeconds"}


def test_a_step_that_is_tried_again_gets_a_new_pod(package: Any, on_kubeflow: Compiled):
    task = package[0]["root"]["dag"]["tasks"]["finetune"]
    assert task["retryPolicy"]["maxRetryCount"] == 2
    assert "retryPolicy" not in package[0]["root"]["dag"]["tasks"]["merge"]
    assert on_kubeflow.stack.orchestrator.config.handles_step_retries, "the pod itself must not try again as well"


def test_every_step_knows_its_run(package: Any):
    for step in PIPELINES["retrain"].steps:
        environment = {entry["name"]: entry["value"] for entry in container(package, step)["env"]}
        assert environment["KFP_RUN_UUID"] == "{{$.pipeline_job_uuid}}"


def test_another_run_is_asked_about_by_its_own_id(on_kubeflow: Compiled, monkeypatch: pytest.MonkeyPatch):
    from stacks.kubeflow_orchestrator import RUN_ID, _run_id

    monkeypatch.setenv(RUN_ID, "of the pod that asks")
    assert _run_id(SimpleNamespace(name="r", run_metadata={RUN_ID: "its own"})) == "its own"
    with pytest.raises(StackError, match="run r did not get as far as Kubeflow Pipelines"):
        _run_id(SimpleNamespace(name="r", run_metadata={}))


@pytest.mark.parametrize("pipeline", ["train", "evaluate", "deploy"])
def test_other_pipelines_compile_too(kubeflow_place: Place, cluster_settings: Settings, pipeline: str):
    spec, _ = kfp_package(compile_for(kubeflow_place, pipeline, cluster_settings))
    assert list(spec["root"]["dag"]["tasks"]) == sorted(name.replace("_", "-") for name in PIPELINES[pipeline].steps)


@pytest.mark.parametrize(("quantity", "taken"), [("32Gi", "32Gi"), ("1.5Gi", "1610612736"), ("500k", "500000")])
def test_memory_as_kfp_takes_it(quantity: str, taken: str):
    assert kfp_memory(quantity) == taken


@pytest.mark.parametrize(("quantity", "taken"), [("4", "4"), ("500m", "500m"), ("1e1", "10000m"), ("100u", "1m")])
def test_cpu_as_kfp_takes_it(quantity: str, taken: str):
    assert kfp_cpu(quantity) == taken
