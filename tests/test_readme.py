"""The README tells the truth: about files, settings and exit codes."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from text2sql import errors
from text2sql.config import Settings, reference

PROJECT = Path(__file__).parents[1]
README = PROJECT / "README.md"


def part(name: str) -> str:
    found = re.search(rf"<!-- {name}: begin.*?-->\n(.*?)<!-- {name}: end -->", README.read_text("utf-8"), re.DOTALL)
    assert found is not None, f"README.md has lost its part {name}"
    return found[1]


def listed() -> dict[str, str]:
    """Paths of the tree with what is said of them; folders end in a slash."""
    found: dict[str, str] = {}
    parents: list[str] = []
    for line in part("tree").strip().removeprefix("```").removesuffix("```").strip("\n").splitlines():
        match = re.fullmatch(r"((?:  )*)(\S+)(?: +(.+))?", line)
        assert match is not None, line
        depth = len(match[1]) // 2
        assert depth <= len(parents), f"indented too far: {line}"
        parents = parents[:depth]
        found["".join(parents) + match[2]] = match[3] or ""
        if match[2].endswith("/"):
            parents.append(match[2])
    return found


def tracked() -> list[str]:
    run = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip("not a git checkout")
    return [path for path in run.stdout.split("\0") if path and (PROJECT / path).exists()]


def test_every_tracked_file_has_a_line():
    """Its own, or that of a folder which is shown closed; the line of a package speaks for its __init__.py."""
    tree = listed()
    closed = [path for path in tree if path.endswith("/") and not any(p != path and p.startswith(path) for p in tree)]
    missing = [
        path
        for path in tracked()
        if path not in tree
        and not path.endswith("__init__.py")
        and not any(path.startswith(folder) for folder in closed)
    ]
    assert not missing, "give each a line in the tree of README.md"


def test_every_line_is_about_something_that_exists():
    assert [path for path in listed() if not (PROJECT / path).exists()] == []


def test_every_file_is_explained():
    assert [path for path, words in listed().items() if not words and not path.endswith("/")] == []


def configuration() -> str:
    """The table as it should be: made of nothing but text2sql/config/."""

    def table(found: list[reference.Key]) -> str:
        rows = (f"| `{key.name}` | {key.default} | {key.meaning} |" for key in found)
        return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])

    parts = [table(reference.keys(Settings))]
    for name, kind in reference.sections():
        head = f"\n<details><summary><code>{name}</code>: {reference.meaning(kind)}</summary>\n"
        parts += [head, table(reference.keys(kind, f"{name}.")), "\n</details>"]
    return "\n".join(parts) + "\n"


def test_table_of_settings_is_complete():
    if os.environ.get("UPDATE_README"):
        before, begin, _, end, after = re.split(
            r"(<!-- configuration: (?:begin|end).*?-->\n)", README.read_text("utf-8")
        )
        README.write_text(before + begin + configuration() + end + after, "utf-8")
    assert part("configuration") == configuration(), "UPDATE_README=1 writes it anew"


def test_every_exit_code_of_an_error_is_explained():
    table = README.read_text("utf-8").split("### Exit codes")[1].split("\n## ")[0]
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    codes = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.Text2SQLError)
    }
    from pipelines.launch import KILLED_EXIT
    from text2sql.errors import GATE_FAILED

    assert told == codes | {0, GATE_FAILED, KILLED_EXIT}


def test_commands_name_files_that_exist():
    named = set(re.findall(r"configs/\w+\.yaml", README.read_text("utf-8")))
    assert named
    assert [path for path in named if not (PROJECT / path).is_file()] == []


def test_chores_are_those_that_make_help_lists():
    run = subprocess.run(["make", "help"], cwd=PROJECT, capture_output=True, text=True, check=True)
    chores = set(re.findall(r"^  make (\w+)", run.stdout, re.MULTILINE))
    assert {"install", "train", "test", "lint", "lock"} <= chores
    told = set(re.findall(r"(?:^|`|=\w+ )make (\w+)", README.read_text("utf-8"), re.MULTILINE))
    assert {"train", "test"} <= told <= chores
