"""The processes of a local deployment as command lines, and the environment that they get."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import text2sql
from text2sql.config import DeploySection
from text2sql.deployment.release import Release
from text2sql.serving import supervisor

PROJECT = Path(text2sql.__file__).parents[1]
VLLM_PYTHON = PROJECT / ".venv-vllm" / "bin" / "python"
PYTHON = (sys.executable, "-P")
"""Modules come from the project alone, whatever lies in the folder that a process starts in."""


def engine_of(section: DeploySection) -> str:
    """transformers or vllm."""
    if section.engine != "auto":
        return section.engine
    return "vllm" if VLLM_PYTHON.exists() else "transformers"


def serve_command(section: DeploySection, logs: Path, release: Release, folder: Path) -> list[str]:
    """The API over a model folder; takes `--port N` besides."""
    engine = engine_of(section)
    more: dict[str, Any] = {"served_name": release.name, "drain_seconds": section.drain_seconds}
    if engine == "vllm":
        more |= {
            "vllm_python": str(VLLM_PYTHON),
            "vllm_log": str(logs / f"vllm-{release.version}.log"),
            "vllm_startup_seconds": section.startup_seconds,
        }
    settings = [f"{key}={json.dumps(value)}" for key, value in (more | section.server).items()]
    return [
        *(*PYTHON, "-m", "text2sql", "serve", "--mode", "api", "--host", "127.0.0.1"),
        *("--model", str(folder), "--engine", engine),
        *(("--api-keys", str(section.api_keys.absolute())) if section.api_keys else ()),
        *(word for setting in settings for word in ("--set", setting)),
    ]


def gateway_command(state: Path) -> list[str]:
    """The gateway over a state folder."""
    return [*PYTHON, "-m", "text2sql.deployment.gateway", str(state)]


def environment() -> dict[str, str]:
    """What a server needs and the settings of the API; no keys, no cloud credentials, and no way to a hub."""
    ours = {name: value for name, value in os.environ.items() if name.startswith("TEXT2SQL_")}
    needed = supervisor.environment(str(PROJECT))  # a local folder: nothing of the hub's
    return needed | ours | {"PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}
