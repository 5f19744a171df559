"""Retraining for real: the first champion, nothing new, a challenger that is no better, a run that was stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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

NAME = "retrained-model"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("retrain")


@pytest.fixture(scope="module")
def config(workdir: Path, tiny_model: Path) -> Path:
    """60 generated rows, two steps of training, a gate that everybody passes."""
    settings = pipeline_settings(
        tiny_model,
        workdir,
        seed=5,
        evaluation={"few_shot": 0, "resamples": 50},
        deploy={
            "port": free_port(),
            "engine": "transformers",
            "startup_seconds": 300,
            "server": {"guard_processes": 1},
        },
    )
    values = settings.model_dump(mode="json") | {"name": NAME, "output_dir": str(workdir / "results")}
    path = workdir / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def retrain(config: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """run.py --pipeline retrain with a state folder of the tests' own; what it left running is ended."""
    monkeypatch.setenv("XDG_STATE_HOME", str(workdir / "state"))

    def invoke(*overrides: str, words: tuple[str, ...] = ("--pipeline", "retrain")) -> Result:
        options = [word for override in overrides for word in ("--set", override)]
        return CliRunner().invoke(run.app, [*words, "--config", str(config), *options])

    yield invoke
    assert invoke(words=("--pipeline", "stop")).exit_code == 0


def test_the_champions_of_a_model(
    retrain: Callable[..., Result], zenml_client: Any, monkeypatch: pytest.MonkeyPatch, workdir: Path
):
    def versions() -> int:
        return int(zenml_client.list_model_versions(model=NAME).total)

    stopped_early(retrain, monkeypatch)

    first = retrain("training.max_steps=3")
    assert first.exit_code == 0, first.output
    assert "at step 2 of 3" in first.stderr, "goes on where it was stopped"
    assert f"{NAME} 2 is live at http://127.0.0.1:" in first.stdout
    assert zenml_client.get_model_version(NAME, "production").number == 2

    runs = zenml_client.list_pipeline_runs(tags=[NAME]).total
    again = retrain("training.max_steps=3", f"output_dir={workdir / 'elsewhere'}")
    assert again.exit_code == 0, again.output
    assert again.stdout == "nothing new since version 2: same data, code and config\n"
    assert (versions(), zenml_client.list_pipeline_runs(tags=[NAME]).total) == (2, runs), "no run was made"

    tie = retrain("training.max_steps=3", "training.seed=9")
    assert tie.exit_code == 0, tie.output
    assert "new since version 2: config" in tie.stderr
    assert "champion kept: the challenger is not better (Execution accuracy ±0.0 points)" in tie.stdout
    assert zenml_client.get_model_version(NAME, "production").number == 2

    below = ("training.max_steps=3", "training.seed=9", "gate.execution_accuracy.min=1.0")
    failed = retrain(*below)
    assert failed.exit_code == 0, failed.output
    assert "champion kept: Gate failed: 1 of" in failed.stdout
    assert retrain(*below).stdout.startswith("nothing new since version 4"), "one that lost is not trained each night"

    forced = retrain(*below, words=("--pipeline", "retrain", "--no-cache", "--dry-run"))
    assert forced.exit_code == 0, forced.output
    assert "# deploy_better" in forced.stdout


def stopped_early(retrain: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM in the middle of the fine-tuning, as a spot node gets it."""
    from text2sql.training.callbacks import RunCallback

    on_step_end = RunCallback.on_step_end

    def stop(self: Any, arguments: Any, state: Any, control: Any, **others: Any) -> Any:
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return on_step_end(self, arguments, state, control, **others)

    with monkeypatch.context() as patch:
        patch.setattr(RunCallback, "on_step_end", stop)
        stopped = retrain("training.max_steps=3")
    assert stopped.exit_code == 130, stopped.output


def test_without_a_champion_a_gate_that_fails_is_told_by_the_exit_code(retrain: Callable[..., Result]):
    result = retrain("name=never-live", "training.max_steps=3", "gate.execution_accuracy.min=1.0")
    assert result.exit_code == 3, result.output
    assert "nothing goes live: Gate failed" in result.stdout
