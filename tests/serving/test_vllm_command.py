"""What vLLM is told, and what it may not be told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from text2sql.errors import ConfigError, ModelError
from text2sql.serving.checkpoint import Checkpoint
from text2sql.serving.settings import assignments, server_settings
from text2sql.serving.vllm_command import command


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
