"""Commands on the pages are right: quick ones are run, and of all others the command line itself reads the flags."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import run
from pipelines import Given, usage_problem
from tests.docs.commands import Command, commands, library_commands
from tests.docs.pages import PROJECT, Fence, fences, pages
from text2sql.__main__ import app
from text2sql.config_file import load_settings
from text2sql.serving.settings import assignments

PROGRAMS = {"run.py": typer.main.get_command(run.app), "-m text2sql": typer.main.get_command(app)}
PLACEHOLDER = re.compile(r"[A-Z]{3,}(?:_[A-Z]+)*|…|\.\.\.")
PAGES = [page for page in pages() if page.name != "CHANGELOG.md" and commands(page)]
RUN = [page for page in pages() if any(fence.info == "bash run" for fence in fences(page))]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_command_line_understands_every_command(page: Path, monkeypatch: pytest.MonkeyPatch):
    problems = []
    for command in commands(page):
        with monkeypatch.context() as patch:
            for name, value in command.variables.items():
                patch.setenv(name, value)
            if why := wrong(command):
                problems.append(f"{command}: {why}")
    assert problems == []


def test_what_the_cluster_page_trains_is_what_it_serves_and_retrains():
    """Another config is another model, which has no version to deploy."""
    named = {}
    for command in commands(Path("docs/cluster.md")):
        if command.program == "run.py":
            found = dict(zip(command.arguments, command.arguments[1:], strict=False))
            if found.get("--pipeline") in ("train", "deploy", "retrain"):
                named[str(command)] = found.get("--config")
    assert len(named) >= 4
    assert set(named.values()) == {"configs/mistral_7b.yaml"}, named


def wrong(command: Command) -> str | None:
    """What the program says against its arguments, without starting anything."""
    program, words = command.program, command.arguments
    try:
        return _make(words) if program == "make" else _parsed(PROGRAMS[program], program, words)
    except Exception as error:  # noqa: BLE001 - usage errors, the config's and the server's, as text
        return f"{type(error).__name__}: {error}"


def _parsed(command: Any, program: str, words: list[str]) -> str | None:
    if known := getattr(command, "commands", None):
        if not words or words[0] == "--help" or PLACEHOLDER.fullmatch(words[0]):
            return None
        return _parsed(known[words[0]], words[0], words[1:])
    if "--help" in words:
        return None
    given = command.make_context(program, list(words)).params
    overrides = [text for text in given.get("overrides") or () if "…" not in text]
    if program == "serve":
        assignments(overrides)
        return None
    if "config" in given and str(given["config"]).startswith("configs/"):
        load_settings(PROJECT / given["config"], overrides)
    elif "config" in given:
        load_settings(PROJECT / "configs" / "tiny.yaml", overrides)
    if program != "run.py":
        return None
    pipeline = given["pipeline"] or ("deploy" if given["rollback"] else "schedules" if given["unschedule"] else "")
    names = ("rollback", "model_version", "dry_run", "schedule", "timezone", "unschedule")
    problem = usage_problem(pipeline, Given(**{name: given[name] for name in names})) if words else None
    return " ".join(problem) if problem else None


def _make(words: list[str]) -> str | None:
    chores = re.findall(r"^([a-z0-9-]+):.*## ", (PROJECT / "Makefile").read_text("utf-8"), re.MULTILINE)
    asked = [word for word in words if "=" not in word and not word.startswith("-") and not PLACEHOLDER.fullmatch(word)]
    unknown = [word for word in asked if word not in chores]
    return f"no chore {unknown[0]}" if unknown else None


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what the commands import
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("page", RUN, ids=str)
def test_quick_commands_do_what_the_page_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In the page's order, in a folder with the project in it; a block `text shows` says what the one before prints."""
    for entry in PROJECT.iterdir():
        if entry.name not in (".git", "results", "data"):
            (tmp_path / entry.name).symlink_to(entry)
    before: tuple[Fence, str] | None = None
    for fence in fences(page):
        if fence.info == "bash run":
            before = fence, _output(fence, tmp_path, monkeypatch)
        elif fence.info == "text shows":
            assert before is not None, f"line {fence.line}: after no command"
            missing = [line for line in fence.text.splitlines() if line.strip() and not _said(line, before[1])]
            assert missing == [], f"line {fence.line}: the command printed\n{before[1]}"
        elif match := re.fullmatch(r"\w+ file (\S+)", fence.info):
            (tmp_path / match[1]).write_text(fence.text, "utf-8")


def _output(fence: Fence, folder: Path, patch: pytest.MonkeyPatch) -> str:
    """By bash; commands of the library alone in this process, which has what they import."""
    environment = {"PYTHONPATH": str(PROJECT), "COLUMNS": "120", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"ZENML_CONFIG_PATH": str(folder / "zenml")}
    if ours := library_commands(fence.text):
        with patch.context() as here:
            here.chdir(folder)
            done = [CliRunner(env=environment | command.variables).invoke(app, command.arguments) for command in ours]
        assert [one.exit_code for one in done] == [0] * len(ours), f"line {fence.line}: {done[-1].output}"
        return "".join(one.output for one in done)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", fence.text],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 0, f"line {fence.line}: {fence.text}\n{ran.stdout}"
    return ran.stdout


def _said(line: str, output: str) -> bool:
    """Whether the output has the line; … stands for anything in it, and spaces for any."""
    pattern = r"\s+".join(re.escape(word).replace("…", ".*") for word in line.split())
    return re.search(pattern, output) is not None


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("run.py", ["--pipeline", "trian"]),
        ("run.py", ["--pipeline", "train", "--dryrun"]),
        ("run.py", ["--pipeline", "train", "--set", "training.lerning_rate=1"]),
        ("run.py", ["--pipeline", "train", "--rollback"]),
        ("-m text2sql", ["prepair"]),
        ("-m text2sql", ["serve", "--mode", "html"]),
        ("-m text2sql", ["serve", "--set", "batchsize=3"]),
        ("make", ["trian"]),
    ],
)
def test_a_wrong_command_is_noticed(program: str, words: list[str]):
    assert wrong(Command(program, words))
