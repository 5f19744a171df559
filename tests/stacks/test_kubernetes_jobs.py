"""What a Kubernetes API server is sent: a Job a step, and a Job or a CronJob for the whole, as the schemas want it."""

from __future__ import annotations

import importlib.util
import os
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest

from pipelines import PIPELINES
from stacks import files
from stacks.kubernetes import pod_settings, step_settings
from tests.stacks.api_server import ApiServer
from tests.stacks.compiled import Compiled, compile_for
from tests.stacks.step_jobs import step_job

if TYPE_CHECKING:
    from stacks.place import Place
    from text2sql.config import Settings

STEPS = PIPELINES["retrain"].steps
GPU_STEPS = ("finetune", "merge", "evaluate")
LINT = importlib.util.find_spec("text2sql.deployment.kubernetes.lint")


def sent(compiled: Compiled, server: ApiServer, kind: str) -> dict[str, Any]:
    """The object of a kind that submitting the pipeline creates."""
    orchestrator = compiled.stack.orchestrator
    steps: dict[str, dict[str, str]] = {name: {} for name in compiled.snapshot.step_configurations}
    before = set(server.objects.get(("zenml", kind), {}))
    orchestrator.submit_pipeline(
        snapshot=compiled.snapshot, stack=compiled.stack, base_environment={}, step_environments=steps
    )
    [name] = set(server.objects["zenml", kind]) - before
    version = {"apiVersion": "batch/v1", "kind": {"jobs": "Job", "cronjobs": "CronJob"}[kind]}
    return {**version, **server.objects["zenml", kind][name]}


@pytest.fixture(scope="module")
def run_job(on_kubernetes: Compiled, api_server: ApiServer) -> dict[str, Any]:
    """Of the orchestrator, for a run at once."""
    return sent(on_kubernetes, api_server, "jobs")


@pytest.fixture(scope="module")
def cron_job(kubernetes_place: Place, cluster_settings: Settings, api_server: ApiServer) -> dict[str, Any]:
    from zenml.config.schedule import Schedule

    schedule = Schedule(name="of-a-test", cron_expression="0 3 * * 1")
    return sent(compile_for(kubernetes_place, "retrain", cluster_settings, schedule), api_server, "cronjobs")


def is_accepted(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, "1.36", strict=True)
    if LINT:
        from text2sql.deployment.kubernetes.lint import lint

        assert list(lint([manifest])) == []


def pod(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("step", STEPS)
def test_the_job_of_every_step_is_accepted(on_kubernetes: Compiled, step: str):
    job = step_job(on_kubernetes.snapshot, on_kubernetes.stack.orchestrator, step)
    is_accepted(job)
    assert job["spec"]["activeDeadlineSeconds"] == 86400
    assert pod(job)["terminationGracePeriodSeconds"] == 120
    assert pod(job)["restartPolicy"] == "Never"
    assert pod(job)["securityContext"]["runAsNonRoot"] is True
    assert pod(job)["enableServiceLinks"] is False
    assert pod(job)["serviceAccountName"] == "zenml-service-account"
    [container] = pod(job)["containers"]
    assert container["image"] == "registry.example.com/text2sql/trainer:0.1.0"


@pytest.mark.parametrize("step", GPU_STEPS)
def test_steps_with_a_model_get_a_gpu_and_all_that_belongs_to_it(on_kubernetes: Compiled, step: str):
    job = step_job(on_kubernetes.snapshot, on_kubernetes.stack.orchestrator, step)
    [container] = pod(job)["containers"]
    resources = container["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == "1"
    assert resources["limits"]["memory"] == resources["requests"]["memory"] == "32Gi"
    assert pod(job)["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-A10G"}
    assert pod(job)["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/mnt/text2sql", "/dev/shm"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod(job)["volumes"]}
    secret = {"secretKeyRef": {"name": "hub-token", "key": "HF_TOKEN"}}
    assert {"name": "HF_TOKEN", "valueFrom": secret} in container["env"]
    assert job["spec"]["backoffLimit"] == (2 if step == "finetune" else 0)


@pytest.mark.parametrize("step", [name for name in STEPS if name not in GPU_STEPS])
def test_steps_without_a_model_get_none(on_kubernetes: Compiled, step: str):
    job = step_job(on_kubernetes.snapshot, on_kubernetes.stack.orchestrator, step)
    [container] = pod(job)["containers"]
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert "nodeSelector" not in pod(job)
    assert not pod(job).get("volumes")
    assert not [entry for entry in container["env"] if "valueFrom" in entry]


def test_the_job_of_a_run_is_accepted(run_job: dict[str, Any]):
    is_accepted(run_job)
    assert pod(run_job)["serviceAccountName"] == "zenml-service-account"
    [container] = pod(run_job)["containers"]
    assert set(container["resources"]["limits"]) == {"memory"}, "it waits for the others, and needs no GPU"


@pytest.mark.parametrize(
    ("section", "changes", "anew"),
    [
        ("model", {"revision": "main"}, {"ingest", "finetune"}),
        ("model", {"revision": "c" * 40}, {"ingest"}),
        ("data", {"databases": "/mnt/databases"}, {"ingest", "validate", "evaluate", "finetune"}),
        ("data", {"benchmark": "/mnt/b.csv", "benchmark_sha256": "c" * 64}, {"ingest", "finetune"}),
    ],
)
def test_a_retraining_reads_anew_what_may_have_changed_since_it_was_sent(
    kubernetes_place: Place, cluster_settings: Settings, section: str, changes: dict[str, Any], anew: set[str]
):
    """Its first step would say that the base or the rows are new, and the cache answer for the old ones."""
    changed = getattr(cluster_settings, section).model_copy(update=changes)
    compiled = compile_for(kubernetes_place, "retrain", cluster_settings.model_copy(update={section: changed}))
    steps = compiled.snapshot.step_configurations
    read = {"ingest", "validate", "format", "finetune", "merge", "evaluate"}
    assert {name for name in read if steps[name].config.enable_cache is False} == anew


def test_a_retraining_at_once_is_sent_with_the_hubs_newest_commits(
    kubernetes_place: Place, cluster_settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    """So that one that failed late does not train again what it has trained."""
    from pipelines import again

    monkeypatch.setattr("text2sql.fingerprint.newest_commit", lambda *_: "c" * 40)
    sent: list[Settings] = []

    def launch(_pipeline: str, settings: Settings, *_: Any) -> Any:
        sent.append(settings)
        return SimpleNamespace(name="run", run=SimpleNamespace(status="stopped"))

    monkeypatch.setattr(again, "launch", launch)
    data = cluster_settings.data.model_copy(update={"path": None, "dataset_name": "someone/rows"})
    assert again.retrain(cluster_settings.model_copy(update={"data": data}), kubernetes_place, cache=True) == 0
    assert (sent[0].data.dataset_revision, sent[0].model.revision) == ("c" * 40, "c" * 40)


def test_a_schedule_without_the_cache_trains_where_nothing_is_new(
    kubernetes_place: Place, cluster_settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    """What the first step ends such a run by unless the run was made so (steps/detect_changes.py)."""
    from pipelines import launch, manage
    from pipelines.command import Request
    from stacks import cluster, place, schedules

    sent: dict[str, Any] = {}
    monkeypatch.setattr(launch, "_start", lambda *_, **options: sent.update(options))
    monkeypatch.setattr(schedules, "make_schedule", lambda _wanted, _place, start: start("made") or [])
    monkeypatch.setattr(cluster, "check_cluster", lambda *_, **__: [])
    monkeypatch.setattr(place, "find_place", lambda _: kubernetes_place)
    request = Request("retrain", Path(), [], "kubernetes", cache=False, schedule="0 3 * * 1")
    assert manage.schedule(request, cluster_settings) == 0
    assert sent == {"schedule": "made", "cache": False}


def test_scheduled_runs_never_overlap_and_have_bounds(cron_job: dict[str, Any]):
    is_accepted(cron_job)
    spec = cron_job["spec"]
    assert spec["schedule"] == "0 3 * * 1"
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["startingDeadlineSeconds"] == 3600
    assert (spec["successfulJobsHistoryLimit"], spec["failedJobsHistoryLimit"]) == (3, 3)
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] == 86400


@pytest.mark.parametrize("pipeline", ["train", "evaluate", "deploy"])
def test_other_pipelines_compile_too(kubernetes_place: Place, cluster_settings: Settings, pipeline: str):
    compiled = compile_for(kubernetes_place, pipeline, cluster_settings)
    for step in PIPELINES[pipeline].steps:
        is_accepted(step_job(compiled.snapshot, compiled.stack.orchestrator, step))


@pytest.mark.skipif(os.environ.get("TEXT2SQL_TEST_CLUSTER") != "1", reason="TEXT2SQL_TEST_CLUSTER=1 asks a real one")
def test_a_real_api_server_takes_them_all(on_kubernetes: Compiled, run_job: dict[str, Any], cron_job: dict[str, Any]):
    """Its own dry run, in a namespace of the test's own."""
    from kubernetes import client, config

    api = config.new_client_from_config(os.environ["KUBECONFIG"])
    core, batch, space = client.CoreV1Api(api), client.BatchV1Api(api), f"text2sql-{uuid.uuid4().hex[:8]}"
    core.create_namespace({"metadata": {"name": space}})
    try:
        options = {"dry_run": "All", "field_validation": "Strict"}
        for step in STEPS:
            job = step_job(on_kubernetes.snapshot, on_kubernetes.stack.orchestrator, step)
            batch.create_namespaced_job(space, job, **options)
        batch.create_namespaced_job(space, run_job, **options)
        cron_job["spec"]["timeZone"] = "Europe/Berlin"
        batch.create_namespaced_cron_job(space, cron_job, **options)
    finally:
        core.delete_namespace(space)


def test_restricted_namespaces_take_the_pods_though_zenml_writes_null_fields_beside():
    """The reason why that is not the default: strict checks refuse those nulls, and API servers drop them."""
    stack = files.read_stack("kubernetes")
    place = stack.orchestrator.model_copy(update={"pod_security": "restricted"})
    settings = pod_settings(stack.of("finetune"), stack.model_copy(update={"orchestrator": place}))
    assert settings["container_security_context"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "container_security_context" not in step_settings(stack, stack.of("finetune"))["pod_settings"]

    from kubernetes import client
    from zenml.integrations.kubernetes.manifest_utils import build_pod_manifest
    from zenml.integrations.kubernetes.pod_settings import KubernetesPodSettings

    built = build_pod_manifest("p", "i", ["c"], [], False, KubernetesPodSettings(**settings))
    manifest = client.ApiClient().sanitize_for_serialization(built)
    with pytest.raises(kubernetes_validate.ValidationError, match="allow_privilege_escalation"):
        kubernetes_validate.validate(manifest, "1.36", strict=True)
    context = manifest["spec"]["containers"][0]["securityContext"]
    for name in [name for name, value in context.items() if value is None or "_" in name]:
        del context[name]
    kubernetes_validate.validate(manifest, "1.36", strict=True)
