"""The linters are tests like any other: one word, `make test`, says whether a change may go in."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
LINTERS = {
    "ruff check": ["ruff", "check", "--output-format=concise", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy", "--no-error-summary"],
    "import-linter": ["lint-imports", "--no-logo"],
}


@pytest.mark.parametrize("name", LINTERS)
def test_linter_finds_nothing(name: str):
    tool, *arguments = LINTERS[name]
    run = subprocess.run([str(BIN / tool), *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"\n{run.stdout}{run.stderr}"


FLOORS = ("sql", "data", "training", "evaluation", "serving", "deployment", "cli")
WRONG_WAY = {
    "text2sql.sql.probe": "zenml",
    "text2sql.probe": "steps",
    "text2sql.data.probe": "text2sql.evaluation",
    "text2sql.config": "text2sql.data",
    "materializers.probe": "steps",
    "steps.probe": "stacks",
    "stacks.probe": "pipelines",
    "pipelines.probe": "run",
}


def test_imports_that_point_the_wrong_way_are_found(tmp_path: Path):
    """On a skeleton of the house, with the contracts of the real pyproject.toml."""
    (tmp_path / "pyproject.toml").write_text((PROJECT / "pyproject.toml").read_text("utf-8"), "utf-8")
    rooms = ["pipelines", "stacks", "steps", "materializers", "text2sql"]
    for room in rooms + [f"text2sql/{floor}" for floor in FLOORS]:
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").touch()
    for module in ("config", "config_file", "errors", "hub", "noise", "progress"):
        (tmp_path / "text2sql" / f"{module}.py").touch()
    for module in ("__main__", "cli/probe"):  # those that may
        (tmp_path / "text2sql" / f"{module}.py").write_text("import typer\n", "utf-8")
    assert lint_imports(tmp_path).returncode == 0
    for module, imported in WRONG_WAY.items():
        (tmp_path / f"{module.replace('.', '/')}.py").write_text(f"import {imported}\n", "utf-8")
    broken = lint_imports(tmp_path)
    assert broken.returncode == 1
    found = set(re.findall(r"(\S+) -> (\S+) ", broken.stdout))
    assert set(WRONG_WAY.items()) <= found, broken.stdout


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "lint-imports"), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_ruff_refuses_zenml_in_the_library_and_nowhere_else():
    def found(path: str) -> str:
        command = [
            str(BIN / "ruff"),
            "check",
            "--output-format=concise",
            "--select=TID251",
            f"--stdin-filename={path}",
            "-",
        ]
        return subprocess.run(
            command, cwd=PROJECT, input="import zenml\n", capture_output=True, text=True, check=False
        ).stdout

    assert "TID251" in found("text2sql/sql/probe.py")
    assert "TID251" not in found("steps/probe.py")
