"""What run.py says of what is live, without a run; and usage errors around it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import run
from pipelines.live import curl, status_text
from text2sql.deployment.release import Release
from text2sql.deployment.target import Serving, Status


def test_the_status_in_words():
    release = Release("m", "3", "d" * 64, "Gate passed: 1 rule kept", "2026-01-01", {"execution_accuracy": 0.9})
    down = Serving(release, "down", "2026-02-02", "vllm", "it ended with exit code 1", 2)
    text = status_text("m", Status("local", "http://127.0.0.1:8000", down))
    assert text.splitlines() == [
        "m at http://127.0.0.1:8000 (local)",
        "  live      version 3, down (it ended with exit code 1), live since 2026-02-02, vllm, started again 2 times",
        "            Gate passed: 1 rule kept (evaluated 2026-01-01)",
        "            Execution accuracy 90.0%",
        "            SHA-256 " + "d" * 64,
    ]


def test_the_status_of_what_was_stopped_fits_a_terminal():
    figures = {"execution_accuracy": 0.9, "exact_match": 0.8, "valid_sql": 0.95, "schema_adherence": 0.96, "bleu": 50.0}
    release = Release("m", "3", "d" * 64, "Gate passed: 1 rule kept", "2026-01-01", figures)
    text = status_text("m", Status("local", "http://127.0.0.1:8000", Serving(release, "stopped", "2026-02-02", "vllm")))
    assert "  live      version 3, stopped, went live 2026-02-02, vllm" in text.splitlines()
    assert [line for line in text.splitlines() if len(line) > 80 and "SHA-256" not in line] == []
    assert " ".join(text.split()).count("BLEU 50.0") == 1


def test_the_line_to_paste_is_the_one_that_the_readme_shows_the_answer_of():
    [word, address, *_, data] = shlex.split(curl("http://127.0.0.1:8000", keys=False))
    assert (word, address) == ("curl", "http://127.0.0.1:8000/generate")
    assert set(json.loads(data)) == {"question", "schema_text"}
    readme = (Path(run.__file__).with_name("README.md")).read_text("utf-8").replace("\\\n", " ")
    shown = [shlex.split(line) for line in readme.splitlines() if line.startswith("curl ")]
    assert shlex.split(curl("http://127.0.0.1:8000", keys=False)) in shown
    assert "Authorization: Bearer $OPENAI_API_KEY" in curl("http://127.0.0.1:8000", keys=True)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--pipeline", "status"], 1, "nothing is deployed"),
        (["--pipeline", "stop"], 0, "nothing runs"),
        (["--rollback"], 1, "there is no version to go back to"),
        (["--pipeline", "deploy", "--rollback"], 1, "there is no version to go back to"),
        (["--pipeline", "train", "--rollback"], 2, "takes nothing else"),
        (["--rollback", "--model-version", "3"], 2, "takes nothing else"),
        (["--pipeline", "status", "--model-version", "3"], 2, "not about a version"),
        (["--pipeline", "stop", "--dry-run"], 2, "stop is no run"),
        ([], 2, "name a pipeline"),
        (["--rollback", "--set", "deploy.host=0.0.0.0"], 2, "deploy.host 0.0.0.0 can be reached from elsewhere"),
    ],
)
def test_where_nothing_was_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, told: str
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(run.app, words)
    assert result.exit_code == code, result.output
    assert told in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--pipeline", "train", "--schedule", "0 3 * * 1"], 2, "retrain is scheduled, and train is not"),
        (["--pipeline", "retrain", "--timezone", "Etc/UTC"], 2, "it belongs to --schedule"),
        (["--pipeline", "train", "--unschedule", "x"], 2, "goes with nothing else"),
        (["--pipeline", "schedules", "--dry-run"], 2, "schedules is no run"),
        (["--pipeline", "retrain", "--model-version", "3"], 2, "not about a version"),
        (["--pipeline", "register-stack"], 2, "needs --stack"),
        (["--pipeline", "register-stack", "--stack", "gpu"], 1, "no stack 'gpu': there is no stacks/gpu.yaml"),
        (
            ["--pipeline", "retrain", "--stack", "kubernetes", "--schedule", "@daily"],
            2,
            'instead of @daily: "0 0 * * *"',
        ),
        (["--pipeline", "retrain", "--stack", "local", "--schedule", "0 3 * * 1"], 1, "local (local) has no schedules"),
        (
            ["--pipeline", "retrain", "--stack", "kubernetes", "--schedule", "0 3 * * 1", "--timezone", "Berlin"],
            2,
            "'Berlin' is no time zone",
        ),
        (
            ["--pipeline", "retrain", "--stack", "kubernetes", "--schedule", "0 3 * * 1", "--dry-run"],
            0,
            "would be 0 3 * * 1 (Etc/UTC)",
        ),
    ],
)
def test_stacks_and_schedules_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, told: str
):
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(run.app, words)
    assert result.exit_code == code, result.output
    assert told in result.output
    assert "Traceback" not in result.output
