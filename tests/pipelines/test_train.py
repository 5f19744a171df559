"""The whole train pipeline, for real, on a random model: run, cache, gate, stage, failure, resume."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

import run
from tests.terminal import Silence, on_terminal
from tests.training_fixtures import pipeline_settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("zenml_client"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of ZenML and what it stands on
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

PROJECT = Path(__file__).parents[2]
UNCACHED = {"find_champion", "promote"}
"""Steps that ask ZenML what is so now."""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def config(workdir: Path, tiny_model: Path) -> Path:
    """60 generated rows, two steps of training, a gate that everybody passes."""
    settings = pipeline_settings(
        tiny_model,
        workdir,
        seed=11,
        evaluation={"few_shot": 1, "resamples": 50},
    )
    values = settings.model_dump(mode="json") | {"name": "test-model", "output_dir": str(workdir / "results")}
    path = workdir / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def train(config: Path) -> Callable[..., Result]:
    def call(*overrides: str) -> Result:
        options = [word for override in overrides for word in ("--set", override)]
        return CliRunner().invoke(run.app, ["--pipeline", "train", "--config", str(config), *options])

    return call


def first_on_a_terminal(config: Path, cwd: Path) -> tuple[Result, Silence]:
    """As a user types it, and how long they looked at nothing."""
    silence = Silence()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROJECT / "run.py"), "--pipeline", "train", "--config", str(config)]
    done, shown = on_terminal(command, cwd, environment, silence)
    return Result(CliRunner(), done.stdout.encode(), shown.encode(), b"", None, done.returncode, None), silence


def how(result: Result) -> dict[str, str]:
    """How each step came about, from the line that tells it."""
    [line] = [line for line in result.stderr.splitlines() if " · " in line]
    return dict(re.findall(r"(\w+) (cached|[\d.]+ s)", line))


@pytest.mark.timeout(900)
def test_from_rows_to_a_staged_model_then_from_the_cache(
    train: Callable[..., Result], config: Path, workdir: Path, zenml_client: Any
):
    first, silence = first_on_a_terminal(config, workdir)
    assert first.exit_code == 0, first.stderr
    assert silence.worked < 3, f"seconds of silence after {silence.after!r}"
    assert silence.waited < 30, "by the clock, on a machine that does much else"
    results = workdir / "results"
    assert sorted(path.name for path in results.iterdir()) == [
        "adapter",
        "evaluation.json",
        "merged_model",
        "report.html",
        "summary.md",
    ]
    evaluation = json.loads((results / "evaluation.json").read_text())
    assert [system["name"] for system in evaluation["systems"]] == ["base", "base_few_shot", "tuned"]
    assert (results / "merged_model" / "README.md").read_text().startswith("---\n")
    assert (results / "adapter" / "adapter_config.json").is_file()
    assert "Execution accuracy" in first.stdout
    assert "Gate passed" in first.stdout
    assert all(f"▸ {step}" in first.stderr for step in how(first))
    assert "cached" not in how(first).values()
    version = zenml_client.get_model_version("test-model", "staging")
    assert version.number == 1
    assert version.run_metadata["gate_passed"] is True
    assert version.run_metadata["tuned_perplexity"] == evaluation["systems"][2]["figures"]["perplexity"]
    low, high = evaluation["systems"][2]["intervals"]["execution_accuracy"]
    assert version.run_metadata["tuned_execution_accuracy_low"] == low
    assert version.run_metadata["tuned_execution_accuracy_high"] == high
    assert re.fullmatch("[0-9a-f]{64}", version.run_metadata["data_fingerprint"])

    from transformers import AutoModelForCausalLM

    merged = AutoModelForCausalLM.from_pretrained(results / "merged_model")
    assert merged.config.model_type == "mistral"

    last = zenml_client.get_pipeline_run(zenml_client.list_pipeline_runs(sort_by="desc:created").items[0].id)
    assert re.fullmatch(r"test-model-synthetic-r4-train-[\d_-]+", last.name)
    assert {"test-model", "stack:default", "data:synthetic", "gate:passed"} <= {tag.name for tag in last.tags}
    assert "Execution accuracy" in last.run_metadata["Tuned"]
    steps = last.steps
    assert set(steps) == set(how(first))
    made = {name: versions[0] for step in steps.values() for name, versions in step.outputs.items()}
    reports = {"validation_report", "token_report", "contamination_report", "trigger_report", "parity_report"}
    assert set(made) == reports | {
        *("raw_rows", "valid_rows", "rejected_rows", "data_docs", "splits"),
        *("adapter", "training_history", "merged_model", "champion", "evaluation", "verdict"),
    }
    for name, version in made.items():
        assert zenml_client.get_artifact_version(version.id).visualizations, name

    (results / "evaluation.json").unlink()
    second = train()
    assert second.exit_code == 0, second.output
    assert {step for step, state in how(second).items() if state != "cached"} == UNCACHED
    assert json.loads((results / "evaluation.json").read_text()) == evaluation
    assert second.stdout.replace("test-model 2", "test-model 1") == first.stdout

    failed = train("gate.execution_accuracy.min=1.0")
    assert failed.exit_code == 3, failed.output
    assert {step for step, state in how(failed).items() if state != "cached"} == UNCACHED
    assert re.search(r"✗ Execution accuracy 0\.\d+ is below the minimum of 1\.000", failed.stdout)
    assert "is not staged" in failed.stdout
    assert (results / "evaluation.json").is_file()
    assert zenml_client.get_model_version("test-model", "staging").number == 2
    refused = zenml_client.get_model_version("test-model", 3)
    assert refused.stage is None
    assert "below the minimum" in refused.run_metadata["gate"]


def test_a_champion_is_judged_beside_and_stays_one_when_it_is_judged_again(
    train: Callable[..., Result], config: Path, workdir: Path, zenml_client: Any
):
    zenml_client.update_model_version("test-model", 2, stage="production", force=True)
    assert train().exit_code == 0
    evaluation = json.loads((workdir / "results" / "evaluation.json").read_text())
    systems = {system["name"]: system for system in evaluation["systems"]}
    assert list(systems) == ["base", "base_few_shot", "tuned", "champion"]
    assert systems["champion"]["digest"] == systems["tuned"]["digest"], "the same model: nothing was trained anew"
    assert [comparison["other"] for comparison in evaluation["comparisons"]] == ["base", "base_few_shot", "champion"]

    options = ["--config", str(config), "--model-version", "production"]
    again = CliRunner().invoke(run.app, ["--pipeline", "evaluate", *options])
    assert again.exit_code == 0, again.output
    assert set(how(again)) == {"find_champion", "evaluate", "promote"}
    assert "results/version-2/report.html" in again.stdout
    judged_again = json.loads((workdir / "results" / "version-2" / "evaluation.json").read_text())
    assert judged_again["rows_digest"] == evaluation["rows_digest"]
    assert json.loads((workdir / "results" / "evaluation.json").read_text()) == evaluation
    assert zenml_client.get_model_version("test-model", "production").number == 2
    missing = CliRunner().invoke(run.app, ["--pipeline", "evaluate", "--config", str(config), "--model-version", "99"])
    assert missing.exit_code == 1
    assert "has no version '99'" in missing.stderr


def test_a_failing_step_is_one_line_and_leaves_results_alone(train: Callable[..., Result], workdir: Path):
    rows = workdir / "bad.jsonl"
    rows.write_text('{"question": "q", "context": "no table", "answer": "SELECT 1"}\n')
    marker = workdir / "elsewhere"
    result = train(f"data.path={rows}", f"output_dir={marker}")
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "none of the 1 rows is valid" in errors[0]
    assert "Traceback" not in result.output
    assert sorted(path.name for path in marker.iterdir()) == ["rejected.jsonl", "validation.html"], (
        "why, and no results"
    )


def test_a_training_that_was_stopped_goes_on(
    train: Callable[..., Result], workdir: Path, monkeypatch: pytest.MonkeyPatch
):
    import os
    import signal

    from text2sql.training.callbacks import RunCallback

    on_step_end = RunCallback.on_step_end

    def stop(self: Any, arguments: Any, state: Any, control: Any, **others: Any) -> Any:
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return on_step_end(self, arguments, state, control, **others)

    with monkeypatch.context() as patch:
        patch.setattr(RunCallback, "on_step_end", stop)
        stopped = train("training.max_steps=4", f"output_dir={workdir / 'stopped'}")
    assert stopped.exit_code == 130, stopped.output
    assert "goes on from there" in stopped.stderr
    assert not (workdir / "stopped").exists()
    resumed = train("training.max_steps=4", f"output_dir={workdir / 'stopped'}")
    assert resumed.exit_code == 0, resumed.output
    assert "at step 2 of 4" in resumed.stderr
    assert how(resumed)["format"] == "cached"
    assert how(resumed)["finetune"] != "cached"
