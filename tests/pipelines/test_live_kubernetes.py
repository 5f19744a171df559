"""run.py over a cluster: status, rollback and stop, and what is wrong in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import run
from tests.deployment.kubernetes.conftest import PACE, Place, kubeconfig, place  # noqa: F401 - fixtures
from text2sql.deployment.kubernetes import target

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "Pace", lambda: PACE)
    monkeypatch.setattr("pipelines.live._mark", lambda *_: None)  # ZenML is not what this is about
    monkeypatch.setattr("pipelines.live.mark_what_serves", lambda _: None)


def call(place: Place, *words: str, **changes: str) -> Result:  # noqa: F811
    path = place.folder / "manifests.yaml"
    import yaml

    path.write_text(yaml.safe_dump_all(place.manifests("healthy")))
    settings = {"namespace": place.namespace, "manifests": str(path), "reach": "api"} | changes
    options = ["--set", "deploy.target=kubernetes"]
    options += [word for key, value in settings.items() for word in ("--set", f"deploy.kubernetes.{key}={value}")]
    return CliRunner().invoke(run.app, [*words, *options])


def test_a_life_in_a_cluster(place: Place):  # noqa: F811
    nothing = call(place, "--pipeline", "status")
    assert (nothing.exit_code, "nothing is deployed" in nothing.stdout) == (1, True)
    place.deploy("1")
    place.deploy("2")
    status = call(place, "--pipeline", "status", address="https://text2sql.example.com")
    assert status.exit_code == 0, status.output
    first, second, third, *_ = status.stdout.splitlines()
    assert first.endswith("at https://text2sql.example.com (kubernetes)")
    assert second.startswith(f"  namespace {place.namespace} of http")
    assert third.startswith("  live      version 2, up, live since 20")
    assert "previous  version 1, stopped" in status.stdout
    back = call(place, "--rollback")
    assert back.exit_code == 0, back.output
    assert "version 1 serves at http://text2sql." in back.stdout
    assert place.version() == "1"
    assert call(place, "--pipeline", "stop").exit_code == 0
    ended = call(place, "--pipeline", "status")
    assert (ended.exit_code, "version 1, stopped" in ended.stdout) == (1, True)


def test_no_cluster_is_one_line(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    unknown = call(place, "--pipeline", "status", context="nowhere")
    assert unknown.exit_code == 1
    [line] = [line for line in unknown.stderr.splitlines() if line.startswith("error: ")]
    assert "no cluster is known here" in line
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert "set KUBECONFIG" in call(place, "--pipeline", "stop").stderr


def test_a_setting_that_makes_no_sense_there_is_refused(place: Place):  # noqa: F811
    refused = CliRunner().invoke(
        run.app, ["--pipeline", "status", "--set", "deploy.target=kubernetes", "--set", "deploy.keep_previous=running"]
    )
    assert refused.exit_code == 2
    assert "deploy.keep_previous running is for deploy.target local" in refused.stderr
