"""Every overlay of k8s/: a cluster would take it, and it means what docs/kubernetes-serving.md says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from text2sql.__main__ import app
from text2sql.data.files import sha256_folder
from text2sql.deployment.kubernetes import manifests
from text2sql.deployment.kubernetes.lint import lint
from text2sql.deployment.kubernetes.manifests import Source, rendered
from text2sql.deployment.release import Release
from text2sql.errors import DeploymentError

PROJECT = Path(__file__).parents[2]
OVERLAYS = sorted(path.name for path in (PROJECT / "k8s" / "overlays").iterdir())
RELEASE = Release("text2sql-mistral-7b", "3", "ab" * 32, "Gate passed: 5 rules kept", "2026-01-01T00:00:00+00:00")
ADAPTER = Source("s3://bucket/adapter", "cd" * 32)

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl renders the overlays")


@cache
def render(overlay: str) -> list[dict[str, Any]]:
    return manifests.render(PROJECT / "k8s" / "overlays" / overlay)


def one(overlay: str, kind: str, name: str) -> dict[str, Any]:
    [found] = [d for d in render(overlay) if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return found


def pod(overlay: str) -> dict[str, Any]:
    return dict(one(overlay, "Deployment", "text2sql-server")["spec"]["template"]["spec"])


def container(overlay: str, name: str) -> dict[str, Any]:
    [found] = [c for c in (*pod(overlay)["initContainers"], *pod(overlay)["containers"]) if c["name"] == name]
    return dict(found)


def check(*folders: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT / "k8s" / "check.py"), *folders]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)


def test_schemas_and_lint_find_nothing_in_any_of_them():
    run = check()
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.findall(r"^([\w-]+): \d\d objects, no problems$", run.stdout, re.MULTILINE) == OVERLAYS


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ("{op: replace, path: /spec/template/spec/volumes/0/emptyDir/sizeLimit, value: 32GB}", "'32GB' is no Kub"),
        ("{op: add, path: /spec/template/spec/hostNetwork, value: true}", "restricted forbids it"),
        ("{op: add, path: /spec/template/spec/nodeSelectors, value: {}}", "nodeSelectors"),
        ("{op: add, path: /spec/replicas, value: two}", "two"),
    ],
    ids=["quantity", "security", "unknown-field", "type"],
)  # fmt: skip
def test_a_fault_in_an_overlay_of_ones_own_is_found(patch: str, words: str, tmp_path: Path):
    base = os.path.relpath(PROJECT / "k8s" / "overlays" / "dev", tmp_path)
    target = "{kind: Deployment, name: text2sql-server}"
    text = f"resources: [{base}]\npatches:\n  - target: {target}\n    patch: |\n      - {patch}\n"
    (tmp_path / "kustomization.yaml").write_text(text)
    run = check(str(tmp_path))
    assert run.returncode == 1
    assert "Deployment text2sql-server" in run.stdout
    assert words in run.stdout


def test_a_folder_that_cannot_be_rendered_is_one_line(tmp_path: Path):
    (tmp_path / "kustomization.yaml").write_text("resources: [nothing.yaml]\n")
    run = check(str(tmp_path))
    assert run.returncode == 1
    assert "cannot be rendered" in run.stdout


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_with_a_release_in_it_it_is_sound_too(overlay: str):
    base = rendered(render(overlay), "elsewhere")
    source = f"s3://bucket/models/{RELEASE.digest}"
    server = manifests.server(base, RELEASE, source, ADAPTER)
    served = manifests.Served(RELEASE, source, server, manifests.service(base, RELEASE))
    made = [server, served.service, manifests.candidate(served), manifests.candidate_service(base, RELEASE)]
    made.append(manifests.releases("elsewhere", served, served))
    assert [str(problem) for problem in lint(made, restricted=True)] == []
    assert {manifest["metadata"]["namespace"] for manifest in made} == {"elsewhere"}
    assert manifests.Served.from_json(served.to_json()) == served
    template = server["spec"]["template"]["metadata"]
    assert template["labels"]["text2sql/release"] == "3-abababababab"
    assert template["annotations"]["text2sql/source"] == source
    for labels in (manifests.candidate(served), server):
        selector, own = labels["spec"]["selector"]["matchLabels"], labels["spec"]["template"]["metadata"]["labels"]
        assert selector.items() <= own.items()
    selector = served.service["spec"]["selector"]
    assert ("text2sql/release" in selector) == base.in_place
    assert base.in_place == overlay.startswith("gpu-single")
    assert ("replicas" in server["spec"]) == (not overlay.startswith("gpu-multi")), "an autoscaler says how many"
    others = manifests.candidate(served)["spec"]["template"]["metadata"]["labels"]
    assert not base.service["spec"]["selector"].items() <= others.items(), "no client reaches a candidate"


def test_an_overlay_that_serves_adapters_wants_one():
    base = rendered(render("gpu-single-adapter"), "text2sql")
    server = manifests.server(base, RELEASE, "s3://bucket/model", ADAPTER)
    annotations = server["spec"]["template"]["metadata"]["annotations"]
    assert (annotations["text2sql/adapter-source"], annotations["text2sql/adapter-sha256"]) == (
        "s3://bucket/adapter",
        "cd" * 32,
    )
    with pytest.raises(DeploymentError, match="the manifests serve adapters, and .* version 3 has none"):
        manifests.server(base, RELEASE, "s3://bucket/model", None)
    names = [c["name"] for c in server["spec"]["template"]["spec"]["initContainers"]]
    assert names == ["fetch", "fetch-adapter", "fetch-base", "vllm"], "what vLLM needs is there before it starts"
    [vllm] = [c for c in server["spec"]["template"]["spec"]["initContainers"] if c["name"] == "vllm"]
    assert "--enable-lora" in vllm["args"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found[:0], "and have none"),
        (lambda found: [*found, *found], "Deployment text2sql-server, Service text2sql, Deployment"),
        (lambda found: json.loads(json.dumps(found).replace("text2sql/sha256", "x/y")), "does not read its model"),
    ],
    ids=["none", "twice", "another-pod"],
)
def test_manifests_that_are_not_ours_are_refused(change: Any, words: str):
    ours = [d for d in render("dev") if manifests.OURS.items() <= (d["metadata"].get("labels") or {}).items()]
    with pytest.raises(DeploymentError, match=words):
        rendered(change(ours), "text2sql")


def test_what_cannot_be_rendered_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "bad.yaml").write_text("a: [")
    for path, words in (
        (tmp_path / "no", "there is no"),
        (tmp_path / "bad.yaml", "cannot be read"),
        (tmp_path, "cannot be rendered"),
    ):
        with pytest.raises(DeploymentError, match=words):
            manifests.render(path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeploymentError, match="kubectl renders .* and is not installed"):
        manifests.render(tmp_path)


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name.startswith("gpu")])
def test_rows_14_21_23_vllm_is_out_of_reach_and_its_probes_fit_it(overlay: str):
    vllm = container(overlay, "vllm")
    assert "--host=127.0.0.1" in vllm["args"]
    assert "ports" not in vllm
    assert vllm["restartPolicy"] == "Always", "a sidecar: up before the gateway, down after it"
    assert vllm["resources"]["requests"]["nvidia.com/gpu"] == vllm["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {mount["mountPath"] for mount in vllm["volumeMounts"]} >= {"/dev/shm", "/models"}
    startup = vllm["startupProbe"]["periodSeconds"] * vllm["startupProbe"]["failureThreshold"]
    assert startup >= 1800
    assert one(overlay, "Deployment", "text2sql-server")["spec"]["progressDeadlineSeconds"] > startup
    assert container(overlay, "gateway")["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert vllm["livenessProbe"]["exec"]["command"] == ["python3", "/probe/vllm_gets_on.py"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_row_22_a_pod_that_ends_has_the_time_that_its_requests_need(overlay: str):
    gateway, settings = container(overlay, "gateway"), one(overlay, "ConfigMap", "server")["data"]
    wait = gateway["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert wait >= 5
    assert pod(overlay)["terminationGracePeriodSeconds"] > wait + float(settings["TEXT2SQL_DRAIN_SECONDS"]) + 15


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_servers_settings_are_settings(overlay: str, monkeypatch: pytest.MonkeyPatch):
    from text2sql.serving.settings import server_settings

    environment = dict(one(overlay, "ConfigMap", "server")["data"])
    environment |= {v["name"]: v.get("value", "x") for v in container(overlay, "gateway")["env"]}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = server_settings({}, environment)
    assert (settings.host, settings.port) == ("0.0.0.0", 8000)  # noqa: S104
    assert (settings.api_keys is None) == settings.allow_anonymous == (overlay == "dev")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_init_container_fetches_what_it_is_told_to(overlay: str, tmp_path: Path):
    """Its own command line, with the values of its annotations and folders of this machine."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_text("weights")
    (model / "tokenizer.json").write_text("{}")
    from text2sql.deployment.artifacts import store

    digest = sha256_folder(model)
    source = store(model, digest, f"file://{tmp_path}/store")
    words = []
    for word in container(overlay, "fetch")["args"]:
        word = word.replace("$(MODEL_SOURCE)", source).replace("$(MODEL_SHA256)", digest)  # noqa: PLW2901
        words.append(f"{tmp_path}{word}" if word in ("/models", "/prompts") else word)
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 0, run.output
    small = overlay == "gpu-single-adapter"
    place = tmp_path / ("prompts" if small else "models") / digest
    assert (
        sorted(path.name for path in place.iterdir()) == ["tokenizer.json"]
        if small
        else ["model.safetensors", "tokenizer.json"]
    )


def test_nothing_but_named_routes_is_open_to_the_world():
    paths = {p["path"] for p in one("gpu-multi", "Ingress", "text2sql")["spec"]["rules"][0]["http"]["paths"]}
    route = one("gpu-multi-operators", "HTTPRoute", "text2sql")["spec"]["rules"][0]["matches"]
    assert paths == {match["path"]["value"] for match in route}
    assert paths.isdisjoint({"/metrics", "/healthz", "/readyz"})
    from tests.serving.api import ScriptedEngine
    from text2sql.serving.app import create_app
    from text2sql.serving.settings import ServerSettings

    known = create_app(ServerSettings(), ScriptedEngine()).openapi()["paths"].keys() | {
        "/",
        "/static",
        "/docs",
        "/openapi.json",
    }
    assert paths <= known


def test_everything_that_is_watched_is_measured():
    from tests.serving.api import ScriptedEngine
    from text2sql.serving.limits import Places
    from text2sql.serving.metrics import Metrics

    engine = ScriptedEngine()
    text = Metrics(engine, Places(4)).text().decode()
    measured = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    measured |= {f"{name}_bucket" for name in measured} | {f"{name}_total" for name in measured}
    folder = PROJECT / "k8s"
    used = {name for path in folder.rglob("*.*") for name in re.findall(r"text2sql_[a-z_]+", path.read_text("utf-8"))}
    assert {"text2sql_engine_queue", "text2sql_requests_total"} <= used
    assert used <= measured


def alert(name: str) -> str:
    """Its expression, on one line."""
    groups = one("gpu-multi-operators", "PrometheusRule", "text2sql")["spec"]["groups"]
    [found] = [rule["expr"] for group in groups for rule in group["rules"] if rule.get("alert") == name]
    return " ".join(found.split())


def chosen(expression: str, series: str) -> list[str]:
    """The selectors of an expression that a sample of /metrics meets, its namespace aside."""
    name, labels = series.partition("{")[0], dict(re.findall(r'(\w+)="([^"]*)"', series))

    def meets(label: str, how: str, value: str) -> bool:
        found = labels.get(label, "")
        return (re.fullmatch(value, found) is not None) if how == "=~" else found == value

    return [
        inside
        for metric, inside in re.findall(r"(\w+)\{([^}]*)\}", expression)
        if metric == name and all(meets(*m) for m in re.findall(r'(\w+)(=~|=)"([^"]*)"', inside) if m[0] != "namespace")
    ]


def test_a_server_without_an_engine_is_down_and_its_probes_are_no_questions():
    from tests.serving.api import ScriptedEngine, running

    engine = ScriptedEngine()
    with running(engine) as server, server.client() as client:
        engine.progressing = False
        assert client.get("/readyz").status_code == 503
        asked = client.get("/metrics")
        assert asked.is_success, "and so `up` is 1"
        assert "replicas_available" in alert("Text2SQLDown")
        [probed] = [
            line for line in asked.text.splitlines() if 'route="/readyz",status="503"' in line and "_total" in line
        ]
        assert chosen(alert("Text2SQLErrors"), probed) == []
        question = probed.replace("/readyz", "/generate/stream")
        assert len(chosen(alert("Text2SQLErrors"), question)) == 2, "above and below the line"


def test_a_retraining_that_was_tried_again_and_finished_has_not_failed():
    """kube_job_status_failed counts the pods of a Job that failed, and backoffLimit grants it two."""
    assert one("gpu-multi", "CronJob", "text2sql-retrain")["spec"]["jobTemplate"]["spec"]["backoffLimit"] > 0
    series = 'kube_job_failed{job_name="text2sql-retrain-29000000",condition="true"}'
    assert len(chosen(alert("Text2SQLRetrainingFailed"), series)) == 1
    docs = (PROJECT / "docs" / "kubernetes-serving.md").read_text("utf-8")
    [by_hand] = re.findall(r"create job --from=cronjob/text2sql-retrain (\S+)`", docs)
    assert len(chosen(alert("Text2SQLRetrainingFailed"), series.replace("text2sql-retrain-29000000", by_hand))) == 1


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name.startswith("gpu")])
def test_the_retraining_is_the_command_that_a_laptop_runs_and_deploys_what_it_is_part_of(overlay: str, tmp_path: Path):
    from text2sql.config_file import load_settings

    job = one(overlay, "CronJob", "text2sql-retrain")["spec"]
    assert (job["concurrencyPolicy"], job["timeZone"]) == ("Forbid", "Etc/UTC")
    pod_spec = job["jobTemplate"]["spec"]["template"]["spec"]
    [run] = pod_spec["containers"]
    assert run["args"][:2] == ["--pipeline=retrain", "--config=/etc/text2sql/config.yaml"]
    assert pod_spec["tolerations"] == pod(overlay)["tolerations"], "GPU nodes are tainted for both"
    path = tmp_path / "config.yaml"
    path.write_text(one(overlay, "ConfigMap", "retrain")["data"]["config.yaml"])
    settings = load_settings(path, [word.removeprefix("--set=") for word in run["args"][2:]])
    assert settings.deploy.target == "kubernetes"
    deployed = settings.deploy.kubernetes.manifests
    assert deployed.parts[:2] == ("k8s", "overlays"), "of the image, in which run.py starts"
    assert rendered(render(deployed.name), "text2sql") == rendered(render(overlay), "text2sql")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_says_what_the_quota_counts(overlay: str):
    """A pod with one that does not is refused in a namespace with a quota."""
    hard = one(overlay, "ResourceQuota", "text2sql")["spec"]["hard"]
    counted = [name.split(".", 1) for name in hard if name.split(".")[0] in ("requests", "limits")]
    for document in render(overlay):
        if document["kind"] in ("Deployment", "CronJob"):
            spec = document["spec"].get("jobTemplate", document)["spec"]["template"]["spec"]
            for part in (*spec.get("initContainers", ()), *spec["containers"]):
                wanted = {(kind, name) for kind, name in counted if name in ("cpu", "memory")}
                given = {(kind, name) for kind in ("requests", "limits") for name in part["resources"][kind]}
                assert wanted <= given, part["name"]


def test_whoever_lets_clients_in_is_let_in():
    for overlay, namespace in (("gpu-multi", "ingress-nginx"), ("gpu-multi-operators", "gateway")):
        [rule] = one(overlay, "NetworkPolicy", "server")["spec"]["ingress"]
        first, *others = [one["namespaceSelector"] for one in rule["from"] if "namespaceSelector" in one]
        assert first == {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
        assert {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}} in others
    [route] = one("gpu-multi-operators", "HTTPRoute", "text2sql")["spec"]["parentRefs"]
    assert route["namespace"] == "gateway"


def test_one_gpu_is_not_fought_over():
    assert one("gpu-single", "CronJob", "text2sql-retrain")["spec"]["suspend"] is True
    quota = one("gpu-multi", "ResourceQuota", "text2sql")["spec"]["hard"]["requests.nvidia.com/gpu"]
    scaler = one("gpu-multi", "HorizontalPodAutoscaler", "text2sql-server")["spec"]
    assert int(quota) >= scaler["maxReplicas"] + 2, "and a candidate, and a retraining run"
    assert scaler["metrics"][0]["pods"]["metric"]["name"] == "text2sql_engine_queue"


def test_everything_else_is_denied():
    deny = one("gpu-multi", "NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for document in render("gpu-multi-operators"):
        assert document["kind"] != "Secret", "none in git"
    namespace = one("gpu-multi", "Namespace", "text2sql")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_dashboard_is_json_that_grafana_takes():
    [text] = one("gpu-multi-operators", "ConfigMap", "dashboard-text2sql")["data"].values()
    panels = json.loads(text)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 8
    assert all(target["expr"] for panel in panels for target in panel["targets"])
    rules = one("gpu-multi-operators", "PrometheusRule", "text2sql")["spec"]["groups"][0]["rules"]
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in rules)


def test_files_are_named_after_what_they_hold():
    for path in (PROJECT / "k8s").rglob("*-*.yaml"):
        if path.name.startswith("patch-"):
            continue
        documents = [d for d in yaml.safe_load_all(path.read_text("utf-8")) if d]
        assert [d["kind"].lower() for d in documents] == [path.name.partition("-")[0]], path


@pytest.mark.slow
def test_the_gateway_of_the_dev_overlay_serves(tiny_model: Path, tmp_path: Path):
    """Its own command line and environment, on this machine: no file is written outside /tmp, no hub is asked."""
    import httpx

    from tests.serving.api import until
    from text2sql.deployment.artifacts import fetch
    from text2sql.serving.supervisor import free_port

    digest, port = sha256_folder(tiny_model), free_port()
    fetch(str(tiny_model), digest, tmp_path)
    told = {"text2sql/model": "tiny", "text2sql/model-version": "7", "text2sql/sha256": digest}
    environment = {"PATH": os.environ["PATH"]} | one("dev", "ConfigMap", "server")["data"]
    for variable in container("dev", "gateway")["env"]:
        path = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        environment[variable["name"]] = variable.get("value") or told[path.split("'")[1]]
    environment |= {"TEXT2SQL_PORT": str(port), "TEXT2SQL_HOST": "127.0.0.1", "HOME": str(tmp_path)}
    words = [
        word.replace("/models/$(MODEL_SHA256)", f"{tmp_path}/{digest}") for word in container("dev", "gateway")["args"]
    ]
    command = [sys.executable, "-m", "text2sql", *words]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=PROJECT, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                return httpx.get(f"{url}/readyz", trust_env=False).is_success
            except httpx.TransportError:
                return False

        until(ready, 120)
        body = {"question": "How many?", "schema_text": "CREATE TABLE t (a INTEGER)", "max_new_tokens": 4}
        reply = httpx.post(f"{url}/generate", json=body, timeout=60, trust_env=False)
        assert (reply.status_code, reply.headers["X-Model-Version"], reply.json()["model"]) == (200, "7", "tiny")
    finally:
        process.terminate()
        assert process.wait(30) == 0
