"""The command line: quick help, errors of one line, exit codes, and nothing started by a dry run."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[1]
HEAVY = ("torch", "zenml", "transformers", "pandas", "datasets", "peft")


@pytest.fixture
def command(tmp_path: Path) -> Any:
    """`python run.py …` in a process of its own, on a machine where ZenML has never run."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = {**os.environ, "ZENML_CONFIG_PATH": str(tmp_path / "zenml"), "NO_COLOR": "1", **environment}
        return subprocess.run(
            [sys.executable, str(PROJECT / "run.py"), *arguments],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )

    return call


def told(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of stderr without those of a wait, which a busy machine makes long enough to be told of."""
    return [line for line in done.stderr.splitlines() if not re.fullmatch(r"  .* …", line)]


def test_help_is_quick_and_imports_nothing_heavy(tmp_path: Path):
    script = (
        "import sys, json, runpy\n"
        f"sys.path.insert(0, {str(PROJECT)!r}); sys.argv = ['run.py', '--help']\n"
        "try: runpy.run_path(sys.path[0] + '/run.py', run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "print(json.dumps([code, sorted(sys.modules)]))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1, "processor time, not the clock's"
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    assert "--dry-run" in done.stdout
    assert re.search(r"3 done and the gate\s+did not pass", done.stdout)
    assert not set(modules) & set(HEAVY)


def test_unknown_pipeline(command: Any):
    done = command("--pipeline", "trian")
    assert done.returncode == 2
    assert "no pipeline 'trian'; there are: train" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_config_error_at_once(command: Any, tmp_path: Path):
    arguments = ["--set", "trainig.seed=1", "--set", "training.learning_rate=fast"]
    done = command("--pipeline", "train", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") for line in lines)
    assert "did you mean training" in done.stderr
    assert not (tmp_path / "zenml").exists(), "ZenML has been started"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.path=gone.jsonl", "data.path = 'gone.jsonl': no such file"),
        ("model.name=./gone", "model.name = './gone': no such folder"),
        ("output_dir=file/results", "is a file"),
    ],
)
def test_what_the_user_can_mend_is_one_line(command: Any, tmp_path: Path, override: str, words: str):
    (tmp_path / "file").write_text("")
    done = command("--pipeline", "train", "--set", override)
    assert done.returncode == 1
    [line] = told(done)
    assert line.startswith("error: ")
    assert words in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"], "something was started"


def test_dry_run_starts_nothing(command: Any, tmp_path: Path):
    done = command(
        "--pipeline", "train", "--dry-run", "--set", "training.seed=7", "--set", "model.quantization_bits=16"
    )
    assert done.returncode == 0, done.stderr
    import yaml

    shown = yaml.safe_load(done.stdout)
    assert shown["training"]["seed"] == 7
    assert re.fullmatch("[0-9a-f]{64}", shown["model"]["sha256"])
    from pipelines import PIPELINES

    steps = re.findall(r"^# (\w+) +default/local ", done.stdout, re.MULTILINE)
    assert tuple(steps) == PIPELINES["train"].steps
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of ZenML's client
def test_a_dry_run_on_a_stack_with_the_store_in_use(command: Any, zenml_home: Path, zenml_client: Any):
    runs = zenml_client.list_pipeline_runs().total
    home = {"ZENML_CONFIG_PATH": str(zenml_home / "config")}
    done = command("--pipeline", "train", "--dry-run", "--stack", "nowhere", **home)
    assert done.returncode == 1
    [line] = told(done)
    assert line.startswith("error: no stack 'nowhere' is registered; there are: default")
    assert zenml_client.list_pipeline_runs().total == runs


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of ZenML's client
def test_a_hub_model_out_of_reach_is_found_before_a_run_exists(command: Any, zenml_home: Path, zenml_client: Any):
    runs = zenml_client.list_pipeline_runs().total
    home = {"ZENML_CONFIG_PATH": str(zenml_home / "config"), "HF_HUB_OFFLINE": "1"}
    done = command("--pipeline", "train", "--set", "model.name=nobody/no-such-model", **home)
    assert done.returncode == 1
    [line] = told(done)
    assert line.startswith("error: cannot load model 'nobody/no-such-model': HF_HUB_OFFLINE is set")
    assert zenml_client.list_pipeline_runs().total == runs


def test_the_listed_steps_are_those_of_the_pipeline(zenml_client: Any, tiny_model: Path, tmp_path: Path):
    from pipelines import PIPELINES
    from pipelines.train import train
    from tests.training_fixtures import tiny_settings

    train.prepare(tiny_settings(tiny_model, tmp_path))
    assert tuple(train.invocations) == PIPELINES["train"].steps
