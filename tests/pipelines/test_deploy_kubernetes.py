"""From a trained version to a cluster, through run.py: the pods are told which model it is, and where it lies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

import run
from tests.deployment.kubernetes.conftest import Place, kubeconfig, place  # noqa: F401 - fixtures
from tests.training_fixtures import pipeline_settings
from text2sql.deployment.artifacts import fetch
from text2sql.deployment.kubernetes import target
from text2sql.deployment.kubernetes.waiting import Pace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("zenml_client"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of ZenML and what it stands on
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

NAME = "model-in-a-cluster"


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path, place: Place) -> Path:  # noqa: F811
    """60 generated rows, two steps of training, a gate that everybody passes, and questions that anybody may answer."""
    settings = pipeline_settings(
        tiny_model,
        tmp_path,
        seed=1,
    )
    server = tmp_path / "server.yaml"
    deployment, service = place.manifests("healthy")
    deployment["spec"]["template"]["metadata"]["annotations"] = {"text2sql/adapter-sha256": "none"}  # it asks for one
    server.write_text(yaml.safe_dump_all([deployment, service]))
    where = {"namespace": place.namespace, "manifests": str(server), "reach": "api"}
    deploy = {"target": "kubernetes", "min_agreement": 0.0, "check_seconds": 60, "kubernetes": where}
    values = settings.model_dump(mode="json") | {"name": NAME, "output_dir": str(tmp_path / "results")}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values | {"deploy": deploy}))
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "Pace", lambda: Pace(0.01, 0.2, 5.0, 3))


def call(config: Path, *words: str) -> Result:
    return CliRunner().invoke(run.app, [*words, "--config", str(config)])


@pytest.mark.usefixtures("quick")
def test_a_version_goes_live_in_a_cluster(config: Path, place: Place, zenml_client: Any, tmp_path: Path):  # noqa: F811
    assert call(config, "--pipeline", "train").exit_code == 0

    refused = call(config, "--pipeline", "deploy")
    assert refused.exit_code == 1
    [line] = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(r"no pod can fetch .* version 1 from /.*deploy.kubernetes.store=s3://bucket/models", line)
    assert line.endswith("nothing is served")

    live = call(config, "--pipeline", "deploy", "--set", f"deploy.kubernetes.store=file://{tmp_path}/store")
    assert live.exit_code == 0, live.output
    assert f"{NAME} version 1 is live at http://text2sql.{place.namespace}.svc:80" in live.stdout
    adapter = zenml_client.get_model_version(NAME, 1).get_artifact("adapter")
    artifact = zenml_client.get_model_version(NAME, 1).get_artifact("merged_model")
    annotations = place.get("Deployment", "text2sql-server")["spec"]["template"]["metadata"]["annotations"]
    digest = artifact.run_metadata["sha256"]
    source = f"file://{tmp_path}/store/{digest}"
    assert re.fullmatch("[0-9a-f]{12}", annotations.pop("text2sql/template"))  # by which a rollout knows its own pods
    assert annotations == {
        "text2sql/model": NAME,
        "text2sql/model-version": "1",
        "text2sql/source": source,
        "text2sql/sha256": digest,
        "text2sql/adapter-source": f"file://{tmp_path}/store/{adapter.run_metadata['sha256']}",
        "text2sql/adapter-sha256": adapter.run_metadata["sha256"],
    }
    assert (fetch(source, digest, tmp_path / "pod") / "model.safetensors").is_file(), "as the init container would"
    told = (annotations[f"text2sql/adapter-{what}"] for what in ("source", "sha256"))
    assert (fetch(*told, tmp_path / "pod") / "adapter_model.safetensors").is_file(), "no pod reaches ZenML's own folder"
    assert (fetch(artifact.uri, digest, tmp_path / "other") / "text2sql.json").is_file(), (
        "ZenML stores it in the same form"
    )
    assert zenml_client.get_model_version(NAME, "production").number == 1
    assert call(config, "--pipeline", "status").exit_code == 0
    again = call(config, "--pipeline", "deploy", "--set", f"deploy.kubernetes.store=file://{tmp_path}/store")
    assert "serves at" in again.stderr, again.output
    assert "already" in again.stderr, again.output
    assert call(config, "--pipeline", "stop").exit_code == 0
