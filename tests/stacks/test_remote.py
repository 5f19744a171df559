"""Remote stacks from end to end: registered in a real ZenML server, artifacts in a real S3 store, and stand-ins for the
cluster alone. Kubeflow Pipelines' stand-in runs every step as a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from stacks.files import FOLDER
from tests.stacks import servers
from tests.stacks.api_server import ApiServer
from tests.stacks.kfp_api import DROP, PROJECT, KfpApi
from tests.training_fixtures import pipeline_settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of moto and boto3
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
RUN = "import sys, pathlib, stacks.files as f; f.FOLDER = pathlib.Path({!r}); import run; run.app()"
NAME = "remote-model"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("remote")


@pytest.fixture(scope="module")
def environment(workdir: Path) -> Iterator[dict[str, str]]:
    """Of a machine that is logged in to a ZenML server."""
    (workdir / "zenml").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ZENML_")}
    with servers.zenml_server(workdir / "zenml") as address:
        yield {
            **kept,
            "ZENML_STORE_URL": address,
            "ZENML_CONFIG_PATH": str(workdir / "client"),
            "ZENML_ANALYTICS_OPT_IN": "false",
            "ZENML_LOGGING_VERBOSITY": "WARN",
            "TEXT2SQL_CACHE": str(workdir / "cache"),
            "AWS_ACCESS_KEY_ID": servers.KEY,
            "AWS_SECRET_ACCESS_KEY": servers.SECRET,
            "KUBECONFIG": str(workdir / "kubeconfig"),
            "NO_COLOR": "1",
            "PYTHONPATH": str(PROJECT),
            "ZENML_CUSTOM_SOURCE_ROOT": str(PROJECT),  # run.py finds it by its own place
        }


@pytest.fixture(scope="module")
def kfp(environment: dict[str, str], workdir: Path) -> Iterator[KfpApi]:
    pods = {"ZENML_CONFIG_PATH": str(workdir / "pods"), "TEXT2SQL_CACHE": str(workdir / "pods-cache")}
    pods |= dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "")  # those come from ZenML's secret
    api = KfpApi(pods)
    yield api
    api.close()


@pytest.fixture(scope="module")
def cluster(workdir: Path) -> Iterator[ApiServer]:
    """A Kubernetes API with all that stacks/kubernetes.yaml asks for."""
    server = ApiServer()
    server.add("namespaces", "zenml")
    server.add("serviceaccounts", "zenml-service-account", "zenml")
    server.add("persistentvolumeclaims", "text2sql-work", "zenml", status={"phase": "Bound"})
    server.add("secrets", "hub-token", "zenml", data={"HF_TOKEN": "eA=="})
    labels = {"nvidia.com/gpu.product": "NVIDIA-A10G"}
    server.add("nodes", "gpu", metadata={"labels": labels}, spec={}, status={"allocatable": {"nvidia.com/gpu": "1"}})
    named = {"name": "kubernetes"}
    config = {
        "current-context": "kubernetes",
        "clusters": [{**named, "cluster": {"server": server.host}}],
        "users": [{**named, "user": {"token": "of-the-tests"}}],
        "contexts": [{**named, "context": {"cluster": "kubernetes", "user": "kubernetes"}}],
    }
    (workdir / "kubeconfig").write_text(yaml.safe_dump(config))
    yield server
    server.close()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with servers.s3_store() as address:
        yield address


@pytest.fixture(scope="module")
def run(environment: dict[str, str], workdir: Path, kfp: KfpApi, cluster: ApiServer, s3: str, tiny_model: Path) -> Run:
    """run.py with the shipped stack files, changed where a user would change them."""
    folder = workdir / "stacks"
    folder.mkdir()
    for path in FOLDER.glob("*.yaml"):
        stack = yaml.safe_load(path.read_text())
        if stack["orchestrator"]["kind"] != "local":
            stack["image"] = "r.test/text2sql-trainer:0.1.0"
            stack["container_registry"] = "r.test"
            stack["artifact_store"] = {"uri": f"s3://{servers.BUCKET}", "endpoint": s3, "region": "us-east-1"}
            stack["defaults"]["environment"] = {"WANDB_MODE": "offline"}
            for step in stack["steps"].values():
                step.pop("environment", None)
        if stack["orchestrator"]["kind"] == "kubeflow":
            stack["orchestrator"]["host"] = kfp.host
        (folder / path.name).write_text(yaml.safe_dump(stack))
    settings = pipeline_settings(
        tiny_model,
        workdir,
        seed=3,
        evaluation={"few_shot": 0, "resamples": 50},
    )
    values = settings.model_dump(mode="json") | {"name": NAME, "output_dir": str(workdir / "results")}
    (workdir / "config.yaml").write_text(yaml.safe_dump(values))

    def call(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", RUN.format(str(folder)), *words],
            cwd=PROJECT,
            env={**environment, **more},
            capture_output=True,
            text=True,
            check=False,
        )

    return call


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def one_error(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    assert done.returncode == code, done.stdout + done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr
    return line


@pytest.fixture(scope="module")
def registered(run: Run) -> None:
    for stack in ("kubernetes", "kubeflow"):
        ok(run("--pipeline", "register-stack", "--stack", stack))


def test_registering_twice_changes_nothing_and_a_changed_file_changes_what_it_says(
    run: Run, registered: None, workdir: Path
):
    again = ok(run("--pipeline", "register-stack", "--stack", "kubeflow")).splitlines()
    assert len(again) == 7
    assert [line for line in again if not line.endswith(": as it should be")] == []
    assert servers.SECRET not in "".join(again)

    path = workdir / "stacks" / "kubeflow.yaml"
    before = path.read_text()
    path.write_text(before.replace("namespace: kubeflow", "namespace: pipelines"))
    try:
        would = ok(run("--pipeline", "register-stack", "--stack", "kubeflow", "--dry-run"))
        assert "orchestrator kubeflow (text2sql_kubeflow): would be updated" in would
        changed = ok(run("--pipeline", "register-stack", "--stack", "kubeflow"))
        assert "orchestrator kubeflow (text2sql_kubeflow): updated" in changed
        assert changed.count("as it should be") == 6
    finally:
        path.write_text(before)
    assert "(text2sql_kubeflow): updated" in ok(run("--pipeline", "register-stack", "--stack", "kubeflow"))


def test_a_new_key_is_an_update_and_is_not_shown(run: Run, registered: None):
    told = ok(run("--pipeline", "register-stack", "--stack", "kubernetes", AWS_SECRET_ACCESS_KEY="another-one"))
    assert "secret kubernetes-artifact-store: updated" in told
    assert "another-one" not in told
    ok(run("--pipeline", "register-stack", "--stack", "kubernetes"))


def test_a_full_run_on_kubeflow(run: Run, registered: None, kfp: KfpApi, workdir: Path):
    config = ("--config", str(workdir / "config.yaml"))
    kfp.faults = [("GET", "/runs/", 503), ("GET", "/runs/", DROP)]
    done = run("--pipeline", "train", "--stack", "kubeflow", *config)
    assert done.returncode == 0, done.stdout + done.stderr + "\n".join(kfp.logs)
    steps = list(kfp.ran.values())[-1]
    assert len(steps) == 8
    assert kfp.faults == [], "a look at the run that fails is no failure of the run"
    assert "Gate passed" in done.stdout
    assert f"{NAME} 1 is now in stage staging" in done.stdout
    assert (workdir / "results" / "merged_model" / "model.safetensors").is_file()
    assert json.loads((workdir / "results" / "evaluation.json").read_text())["systems"][-1]["name"] == "tuned"


def test_a_step_that_fails_on_kubeflow_is_one_line(run: Run, registered: None, kfp: KfpApi, workdir: Path):
    config = ("--config", str(workdir / "config.yaml"), "--set", "data.path=/mnt/text2sql/not-there.jsonl")
    line = one_error(run("--pipeline", "train", "--stack", "kubeflow", *config))
    assert "of Kubeflow Pipelines failed (ingest failed)" in line
    assert list(kfp.ran.values())[-1] == ["ingest"], "nothing starts after it"


def test_a_recurring_run_on_kubeflow(
    run: Run, registered: None, kfp: KfpApi, workdir: Path, environment: dict[str, str]
):
    config = ("--config", str(workdir / "config.yaml"))
    when = ("--pipeline", "retrain", "--stack", "kubeflow", "--schedule", "0 3 * * 1", *config)
    told = ok(run(*when, "--timezone", "Asia/Tokyo"))
    assert "0 18 * * 0 (Etc/UTC) on stack kubeflow" in told
    [recurring] = kfp.state["recurringruns"].values()
    assert recurring["trigger"]["cron_schedule"]["cron"] == "0 0 18 * * 0", "seconds first"
    assert (recurring["max_concurrency"], recurring["no_catchup"], recurring["mode"]) == (1, True, "ENABLE")
    first = recurring["recurring_run_id"]
    assert f"schedule retrain-{NAME}-kubeflow-" in ok(run(*when)), "in place of the first"
    assert list(kfp.state["recurringruns"]) != [first]
    assert len(kfp.state["recurringruns"]) == 1

    subprocess.run([sys.executable, "-c", FINISHED, config[1]], cwd=PROJECT, env=environment, check=True)
    [recurring_id] = kfp.state["recurringruns"]
    fired = kfp.fire(recurring_id)
    assert kfp.ran[fired] == ["detect-changes"], "nothing new: no other pod starts" + "\n".join(kfp.logs[-1:])
    assert kfp.state["runs"][fired]["state"] == "CANCELED"
    shown = ok(run("--pipeline", "schedules"))
    assert f"retrain-{NAME}-kubeflow-" in shown
    assert "0 3 * * 1  active  last run" in shown
    assert shown.rstrip().endswith("stopped")

    kfp.faults = [("POST", "/recurringruns", 500)]
    refused = one_error(run(*when))
    assert "Kubeflow Pipelines" in refused
    assert "500" in refused
    assert list(kfp.state["recurringruns"]) == [recurring_id], "the old one stays"
    assert ok(run("--pipeline", "schedules")).count("\n") == 1

    ok(run("--unschedule", f"retrain-{NAME}-kubeflow"))
    assert kfp.state["recurringruns"] == {}
    assert ok(run("--pipeline", "schedules")) == "nothing is scheduled\n"


FINISHED = """
import sys
from pathlib import Path
from steps.detect_changes import FINGERPRINT, find_changes
from text2sql.config_file import load_settings
from zenml import log_metadata
from zenml.client import Client

settings = load_settings(Path(sys.argv[1]))
found = find_changes(settings).fingerprint
if not Client().list_models(name=settings.name).total:
    Client().create_model(settings.name)
version = Client().create_model_version(settings.name)
log_metadata({FINGERPRINT: found}, model_name=settings.name, model_version=version.id)
"""
"""A model version with the fingerprint that a retraining would have left."""


def test_a_schedule_on_kubernetes_and_its_time_zone(run: Run, registered: None, cluster: ApiServer, workdir: Path):
    when = ("--pipeline", "retrain", "--stack", "kubernetes", "--schedule", "30 2 * * mon-fri")
    config = ("--config", str(workdir / "config.yaml"))
    told = ok(run(*when, "--timezone", "Europe/Berlin", *config))
    assert "30 2 * * MON-FRI (Europe/Berlin) on stack kubernetes" in told
    [(_, job)] = cluster.objects["zenml", "cronjobs"].items()
    assert (job["spec"]["timeZone"], job["spec"]["schedule"]) == ("Europe/Berlin", "30 2 * * MON-FRI")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"

    cluster.errors = {("PATCH", "cronjobs"): 403}
    try:
        refused = one_error(run(*when, *config))
    finally:
        cluster.errors = {}
    assert "does not get time zone Etc/UTC: 403" in refused
    assert [job] == list(cluster.objects["zenml", "cronjobs"].values()), "the new one is gone, the old one is there"

    ok(run("--unschedule", f"retrain-{NAME}-kubernetes"))
    assert cluster.objects["zenml", "cronjobs"] == {}


def test_what_the_cluster_lacks_is_told_before_anything_is_created(
    run: Run, registered: None, cluster: ApiServer, workdir: Path
):
    claim = cluster.objects["zenml", "persistentvolumeclaims"].pop("text2sql-work")
    cluster.objects[None, "nodes"]["gpu"]["metadata"]["labels"] = {"nvidia.com/gpu.product": "Tesla-T4"}
    cluster.denied.add(("create", "cronjobs"))
    before = len(cluster.requests)
    try:
        done = run(
            "--pipeline", "retrain", "--stack", "kubernetes", "--schedule", "0 3 * * 1",
            "--config", str(workdir / "config.yaml"),
        )  # fmt: skip
    finally:
        cluster.objects["zenml", "persistentvolumeclaims"]["text2sql-work"] = claim
        cluster.objects[None, "nodes"]["gpu"]["metadata"]["labels"] = {"nvidia.com/gpu.product": "NVIDIA-A10G"}
        cluster.denied.clear()
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        "error: no permission to create cronjobs.batch in namespace 'zenml'; ask for a Role with it",
        "error: finetune, merge, evaluate: there is no PersistentVolumeClaim 'text2sql-work' in namespace 'zenml'",
        "error: finetune, merge, evaluate: no node has nvidia.com/gpu.product=NVIDIA-A10G; nodes have: Tesla-T4",
    ]
    asked = cluster.requests[before:]
    assert [path for method, path in asked if method != "GET" and "accessreview" not in path] == []


def test_a_server_that_is_not_there(run: Run, workdir: Path):
    nobody = {"ZENML_STORE_URL": "http://127.0.0.1:9", "ZENML_CONFIG_PATH": str(workdir / "nobody")}
    assert "ZenML's server cannot be reached" in one_error(run("--pipeline", "schedules", **nobody))
