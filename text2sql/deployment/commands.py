"""The processes of a local deployment as command lines, and the environment that they get."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import text2sql
from text2sql.config import DeploySection
from text2sql.deployment.release import Release
from text2sql.serving import vllm_command
from text2sql.serving.settings import PREFIX
from text2sql.serving.vllm_command import LOOPBACK

PROJECT = Path(text2sql.__file__).parents[1]
VLLM_PYTHON = PROJECT / ".venv-vllm" / "bin" / "python"
PYTHON = (sys.executable, "-P")
"""Modules come from the project alone, whatever lies in the folder that a process starts in."""


def engine_of(section: DeploySection) -> str:
    """transformers or vllm."""
    if section.engine != "auto":
        return section.engine
    return "vllm" if VLLM_PYTHON.exists() else "transformers"


def serve_command(section: DeploySection, folder: Path) -> list[str]:
    """The API over a model folder; takes `--port N` besides. Its other settings come by `environment`."""
    return [
        *(*PYTHON, "-m", "text2sql", "serve", "--mode", "api", "--host", LOOPBACK),
        *("--model", str(folder), "--engine", engine_of(section)),
        *(("--api-keys", str(section.api_keys.absolute())) if section.api_keys else ()),
    ]


def gateway_command(state: Path) -> list[str]:
    """The gateway over a state folder."""
    return [*PYTHON, "-m", "text2sql.deployment.gateway", str(state)]


def vllm_log(logs: Path, release: Release) -> Path:
    return logs / f"vllm-{release.version}.log"


def server_variables(section: DeploySection, logs: Path, release: Release) -> dict[str, str]:
    """The settings of a server as variables. Every user of a machine can read a command line, and the URL of a database
    may hold a password."""
    found: dict[str, Any] = {"served_name": release.name, "drain_seconds": section.drain_seconds}
    if engine_of(section) == "vllm":
        found |= {
            "vllm_python": VLLM_PYTHON,
            "vllm_log": vllm_log(logs, release),
            "vllm_startup_seconds": section.startup_seconds,
        }
    return {f"{PREFIX}{key.upper()}": str(value) for key, value in (found | section.server).items()}


def environment(settings: dict[str, str] | None = None) -> dict[str, str]:
    """What a server needs and the settings of the API; no keys, no cloud credentials, and no way to a hub.

    Args:
        settings: variables that count more than those of this process.
    """
    ours = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    needed = vllm_command.environment()
    return needed | ours | (settings or {}) | {"PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}
