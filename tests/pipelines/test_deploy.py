"""A model's life in production, for real: trained, deployed, asked, refused, damaged, rolled back, ended."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner, Result

import run
from tests.training_fixtures import pipeline_settings
from text2sql.serving.supervisor import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("zenml_client"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of ZenML and what it stands on
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

NAME = "deployed-model"
ASKED = {"question": "How many singers are there?", "schema_text": "CREATE TABLE singer (name TEXT, age INTEGER)"}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deploy")


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def config(workdir: Path, tiny_model: Path, port: int) -> Path:
    """60 generated rows, two steps of training, a gate that everybody passes."""
    settings = pipeline_settings(
        tiny_model,
        workdir,
        seed=1,
        deploy={"port": port, "engine": "transformers", "startup_seconds": 300, "server": {"guard_processes": 1}},
    )
    values = settings.model_dump(mode="json") | {"name": NAME, "output_dir": str(workdir / "results")}
    path = workdir / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def call(config: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """run.py with a state folder of the tests' own; what it left running is ended."""
    monkeypatch.setenv("XDG_STATE_HOME", str(workdir / "state"))

    def invoke(*words: str, overrides: tuple[str, ...] = ()) -> Result:
        options = [word for override in overrides for word in ("--set", override)]
        return CliRunner().invoke(run.app, [*words, "--config", str(config), *options])

    yield invoke
    assert invoke("--pipeline", "stop").exit_code == 0


def version_that_answers(port: int) -> str:
    reply = httpx.post(f"http://127.0.0.1:{port}/generate", json=ASKED, timeout=60, trust_env=False)
    assert reply.status_code == 200, reply.text
    assert reply.json()["model"] == NAME
    return reply.headers["X-Model-Version"]


def error(result: Result) -> str:
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in result.output
    return line


def test_a_models_life_in_production(call: Callable[..., Result], port: int, workdir: Path, zenml_client: Any):
    train = ("--pipeline", "train")
    deploy = ("--pipeline", "deploy")
    assert call(*train).exit_code == 0

    first = call(*deploy)
    assert first.exit_code == 0, first.output
    assert f"{NAME} version 1 is live at http://127.0.0.1:{port}" in first.stdout
    assert re.search(r"It gives (100|9\d)\.\d% of 1\d answers as the evaluated model did\.", first.stdout)
    assert version_that_answers(port) == "1"
    assert zenml_client.get_model_version(NAME, "production").number == 1

    again = call(*deploy)
    assert again.exit_code == 0, again.output
    assert "serves at" in again.stderr
    assert "already" in again.stderr

    failed = call(*train, overrides=("gate.execution_accuracy.min=1.0",))
    assert failed.exit_code == 3, failed.output
    refused = call(*deploy, "--model-version", "2")
    assert refused.exit_code == 3
    assert re.search(r"version 2 is not deployed.*is below the minimum of 1\.000", error(refused))
    spared = call(*deploy)
    assert spared.exit_code == 0, spared.output
    assert "version 2 did not pass its gate" in spared.stderr
    assert version_that_answers(port) == "1"

    assert call(*train, overrides=("training.seed=7",)).exit_code == 0
    [weights] = [path for path in stored(zenml_client, 3) if path.name == "model.safetensors"]
    intact = weights.read_bytes()
    flip(weights)
    damaged = call(*deploy)
    assert damaged.exit_code == 1
    assert "is damaged" in error(damaged)
    assert version_that_answers(port) == "1"
    weights.write_bytes(intact)

    another = call(*deploy)
    assert another.exit_code == 0, another.output
    assert version_that_answers(port) == "3"
    assert zenml_client.get_model_version(NAME, "production").number == 3
    assert zenml_client.get_model_version(NAME, 1).stage == "archived"

    zenml_client.get_model_version(NAME, 1).set_stage("production", force=True)  # as if it had died before it marked
    (workdir / "state" / "text2sql" / NAME / "marked.json").unlink()
    assert call("--pipeline", "status").exit_code == 0
    assert zenml_client.get_model_version(NAME, "production").number == 3

    back = call("--rollback")
    assert back.exit_code == 0, back.output
    assert version_that_answers(port) == "1"
    assert zenml_client.get_model_version(NAME, "production").number == 1

    kept = [path for path in (workdir / "state").rglob("model.safetensors") if path.read_bytes() == intact]
    for path in kept:  # what a rollback would go back to now
        flip(path)
    unsound = call("--rollback")
    assert unsound.exit_code == 1, unsound.output
    assert "version 3 is damaged or gone" in error(unsound)
    assert version_that_answers(port) == "1"
    for path in kept:
        path.write_bytes(intact)

    status = call("--pipeline", "status")
    assert status.exit_code == 0, status.output
    assert re.search(r"live +version 1, up, live since 20\d\d-.*, transformers", status.stdout)
    assert re.search(r"Execution accuracy \d", status.stdout)
    assert re.search(r"previous +version 3, stopped", status.stdout)

    assert call("--pipeline", "stop").exit_code == 0
    assert processes(workdir) == []
    ended = call("--pipeline", "status")
    assert ended.exit_code == 1
    assert "the gateway does not run" in ended.stdout


def stored(client: Any, version: int) -> list[Path]:
    """Files of a version's merged model in the artifact store; they share their bytes with the cache's."""
    return [*Path(client.get_model_version(NAME, version).get_artifact("merged_model").uri).rglob("*")]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def processes(folder: Path) -> list[str]:
    """Command lines that name a folder, but for this process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in words and int(entry.name) != os.getpid():
            found.append(words)
    return found
