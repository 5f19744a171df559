"""Remote stacks from end to end: registered in a real ZenML server, artifacts in a real S3 store, and stand-ins for the
cluster alone. Kubeflow Pipelines' stand-in runs every step as a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from stacks.files import FOLDER
from tests.stacks import servers
from tests.stacks.clusters import REAL, Cluster, RealCluster, StandIn
from tests.stacks.kfp_api import DROP, KfpApi
from tests.stacks.processes import PROJECT, python
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
def zenml_server(workdir: Path) -> Iterator[servers.ZenMLServer]:
    (workdir / "zenml").mkdir()
    server = servers.ZenMLServer(workdir / "zenml")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def environment(workdir: Path, zenml_server: servers.ZenMLServer) -> dict[str, str]:
    """Of a machine that is logged in to a ZenML server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ZENML_")}
    return {
        **kept,
        "ZENML_STORE_URL": zenml_server.address,
        "ZENML_CONFIG_PATH": str(workdir / "client"),
        "ZENML_LOCAL_STORES_PATH": str(workdir / "stores"),
        "ZENML_ANALYTICS_OPT_IN": "false",
        "ZENML_LOGGING_VERBOSITY": "WARN",
        "TEXT2SQL_CACHE": str(workdir / "cache"),
        "AWS_ACCESS_KEY_ID": servers.KEY,
        "AWS_SECRET_ACCESS_KEY": servers.SECRET,
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
def cluster(workdir: Path) -> Iterator[Cluster]:
    found = (RealCluster if REAL else StandIn)(workdir)
    yield found
    found.close()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with servers.s3_store() as address:
        yield address


@pytest.fixture(scope="module")
def run(environment: dict[str, str], workdir: Path, kfp: KfpApi, cluster: Cluster, s3: str, tiny_model: Path) -> Run:
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
        if stack["orchestrator"]["kind"] == "kubernetes":
            stack["orchestrator"] |= {name: getattr(cluster, name) for name in ("context", "namespace", "nodes")}
        (folder / path.name).write_text(yaml.safe_dump(stack))
    settings = pipeline_settings(
        tiny_model,
        workdir,
        seed=3,
        evaluation={"few_shot": 0, "resamples": 50},
    )
    values = settings.model_dump(mode="json") | {"name": NAME, "output_dir": str(workdir / "results")}
    (workdir / "config.yaml").write_text(yaml.safe_dump(values))

    def call(*words: str, first: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        given = {**environment, "KUBECONFIG": str(cluster.kubeconfig), **more}
        return python(["-c", first + RUN.format(str(folder)), *words], given)

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

    ok(python(["-c", FINISHED, config[1]], environment))
    before = ok(python(["-c", VERSIONS, NAME], environment))
    [recurring_id] = kfp.state["recurringruns"]
    fired = kfp.fire(recurring_id)
    assert kfp.ran[fired] == ["detect-changes"], "nothing new: no other pod starts" + "\n".join(kfp.logs[-1:])
    assert kfp.state["runs"][fired]["state"] == "CANCELED"
    shown = ok(run("--pipeline", "schedules"))
    assert f"retrain-{NAME}-kubeflow-" in shown
    assert "0 3 * * 1  active  last run" in shown
    assert shown.rstrip().endswith("stopped")
    assert ok(python(["-c", VERSIONS, NAME], environment)) == before, "no empty version stays of it"

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
VERSIONS = """
import sys
from zenml.client import Client
print(*(version.number for version in Client().list_model_versions(model=sys.argv[1])))
"""


@pytest.fixture
def when(workdir: Path) -> tuple[str, ...]:
    config = ("--config", str(workdir / "config.yaml"))
    return ("--pipeline", "retrain", "--stack", "kubernetes", *config, "--schedule")


def test_a_schedule_on_kubernetes_and_its_time_zone(
    run: Run, registered: None, cluster: Cluster, when: tuple[str, ...]
):
    told = ok(run(*when, "30 2 * * mon-fri", "--timezone", "Europe/Berlin"))
    assert "30 2 * * MON-FRI (Europe/Berlin) on stack kubernetes" in told
    [job] = cluster.cron_jobs()
    assert (job["spec"]["timeZone"], job["spec"]["schedule"]) == ("Europe/Berlin", "30 2 * * MON-FRI")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"

    told = ok(run(*when, "0 4 * * *"))
    assert f"schedule {job['metadata']['name']}" not in told
    [later] = cluster.cron_jobs()
    assert later["metadata"]["name"] != job["metadata"]["name"], "in place of the first"
    assert (later["spec"]["timeZone"], later["spec"]["schedule"]) == ("Etc/UTC", "0 4 * * *")

    ok(run("--unschedule", f"retrain-{NAME}-kubernetes"))
    assert cluster.cron_jobs() == []


@pytest.mark.skipif(REAL, reason="a cluster that makes CronJobs and does not change them is a stand-in's")
def test_a_schedule_that_does_not_get_its_time_zone_is_taken_back(
    run: Run, registered: None, cluster: StandIn, when: tuple[str, ...]
):
    ok(run(*when, "30 2 * * mon-fri", "--timezone", "Europe/Berlin"))
    before = cluster.cron_jobs()
    cluster.server.errors = {("PATCH", "cronjobs"): 403}
    try:
        refused = one_error(run(*when, "0 4 * * *"))
        assert "does not get time zone Etc/UTC: 403" in refused
        assert cluster.cron_jobs() == before, "the new one is gone, the old one is there"
        cluster.server.errors = {("DELETE", "cronjobs"): 403}
        kept = one_error(run("--unschedule", f"retrain-{NAME}-kubernetes"))
    finally:
        cluster.server.errors = {}
    assert "stays, for the cluster does not delete it: (403)" in kept
    ok(run("--unschedule", f"retrain-{NAME}-kubernetes"))


@pytest.mark.skipif(not REAL, reason="TEXT2SQL_TEST_CLUSTER=1 asks a real one: only its own clock fires")
def test_a_scheduled_run_fires_and_the_next_one_waits_for_it(
    run: Run, registered: None, cluster: RealCluster, when: tuple[str, ...]
):
    """The first run never ends: its image is nowhere, and there may be no node."""
    if not cluster.has_controllers():
        pytest.skip("no kube-controller-manager makes Jobs of CronJobs there")
    ok(run(*when, "* * * * *"))
    try:
        deadline = time.monotonic() + 100
        while not cluster.jobs() and time.monotonic() < deadline:
            time.sleep(2)
        first = cluster.jobs()
        assert len(first) == 1
        time.sleep(75)
        assert cluster.jobs() == first
    finally:
        ok(run("--unschedule", f"retrain-{NAME}-kubernetes"))


def test_what_the_cluster_lacks_is_told_before_anything_is_created(
    run: Run, registered: None, cluster: Cluster, workdir: Path, when: tuple[str, ...]
):
    path = workdir / "stacks" / "kubernetes.yaml"
    before = path.read_text()
    asks = {"NVIDIA-A10G": "NVIDIA-X1", "text2sql-work": "no-claim", "hub-token": "no-secret", "autoscaled": "fixed"}
    for there, wanted in asks.items():
        path.write_text(path.read_text().replace(there, wanted))
    with cluster.poor() as kubeconfig:
        try:
            done = run(*when, "0 3 * * 1", KUBECONFIG=str(kubeconfig))
        finally:
            path.write_text(before)
    assert done.returncode == 1
    space, who = f"in namespace '{cluster.namespace}'", "finetune, merge, evaluate"
    told = [line.partition("; nodes have: ")[0] for line in done.stderr.splitlines() if line.startswith("error: ")]
    told = [line for line in told if "no node takes pods at all" not in line]  # of a control plane without nodes
    assert told == [
        f"error: no permission to create cronjobs.batch {space}; ask for a Role with it",
        f"error: {who}: there is no PersistentVolumeClaim 'no-claim' {space}",
        f"error: {who}: there is no Secret 'no-secret' {space}",
        f"error: {who}: no node has nvidia.com/gpu.product=NVIDIA-X1",
    ]
    assert cluster.cron_jobs() == []


IMPATIENT = """
from zenml.zen_stores import rest_zen_store

def impatient(retry=rest_zen_store.Retry, **options):
    return retry(**{**options, "connect": 1, "backoff_factor": 0.1})

rest_zen_store.Retry = impatient
"""
"""ZenML's client tries for half a minute; that much is not needed to see that nobody is there."""
KILLS_THE_SERVER = """
import os, signal
from text2sql.data import load

def of_a_dead_server(*arguments, load_rows=load.load_rows):
    os.kill(int(os.environ["SERVER"]), signal.SIGKILL)
    return load_rows(*arguments)

load.load_rows = of_a_dead_server
"""
STATUSES = """
import sys
from zenml.client import Client
[run] = Client().list_pipeline_runs(tags=[sys.argv[1]], hydrate=True)
print(run.status, *(f"{name} {step.status}" for name, step in run.steps.items()))
"""


def test_a_server_that_dies_in_the_middle_of_a_run_leaves_no_zombie(
    run: Run, zenml_server: servers.ZenMLServer, environment: dict[str, str], workdir: Path
):
    config = ("--config", str(workdir / "config.yaml"), "--set", "name=orphaned")
    first = IMPATIENT + KILLS_THE_SERVER
    line = one_error(run("--pipeline", "train", *config, first=first, SERVER=str(zenml_server.pid)))
    assert "ZenML's server cannot be reached" in line
    zenml_server.start()
    assert ok(python(["-c", STATUSES, "orphaned"], environment)) == "running ingest running\n"
    next_one = run("--pipeline", "evaluate", *config)
    assert "model 'orphaned' has no version to take" in one_error(next_one)
    assert "was cut off, and is marked as failed" in next_one.stderr
    assert ok(python(["-c", STATUSES, "orphaned"], environment)) == "failed ingest failed\n"


def test_a_server_that_is_not_there(run: Run, workdir: Path):
    nobody = {"ZENML_STORE_URL": "http://127.0.0.1:9", "ZENML_CONFIG_PATH": str(workdir / "nobody")}
    assert "ZenML's server cannot be reached" in one_error(run("--pipeline", "schedules", first=IMPATIENT, **nobody))
