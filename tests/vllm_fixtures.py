"""A real vLLM server on the CPU, started once a session; tests that use it carry the marker `vllm`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

PROJECT = Path(__file__).parents[1]
PYTHON = PROJECT / ".venv-vllm" / "bin" / "python"
TINY_MISTRAL = PROJECT / "assets" / "tiny-mistral"
START_UP = 420
"""Seconds: three processes import vLLM one after the other, a minute in all on two idle cores."""
STOP = 30

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    # A prompt's likelihoods go through a torch.compile of vLLM's own, which --enforce-eager does not reach: without a
    # C++ compiler on the machine, the first such request kills the engine.
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class VllmServer:
    """Where it listens, what it serves, and the file it logs to."""

    url: str
    model: str
    folder: Path
    api_key: str
    log: Path


@contextlib.contextmanager
def vllm_server_of(folder: Path, log: Path, dtype: str = "bfloat16") -> Iterator[VllmServer]:
    """Serve a model folder on a free port of the loopback interface, under an API key; leave no process behind.

    The server is told a repetition penalty, as a generation_config.json might: a client must ask for none.
    """
    port, name, key = _free_port(), "tiny", "a key of the tests"
    options = {
        "--model": folder,
        "--served-model-name": name,
        "--host": "127.0.0.1",
        "--port": port,
        "--dtype": dtype,
        "--gpu-memory-utilization": 0.2,  # the share of memory that must be free, also without a GPU
        "--override-generation-config": '{"repetition_penalty": 1.5}',
    }
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    command += [part for option in options.items() for part in option]
    environment = {**os.environ, **ENVIRONMENT, "VLLM_API_KEY": key}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its whole process tree is then one group
        )
    server = VllmServer(f"http://127.0.0.1:{port}", name, folder, key, log)
    try:
        _wait_until_healthy(server, process)
        yield server
    finally:
        _stop(process)


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """The tiny Mistral of assets/ in bf16, answering on the CPU."""
    if not PYTHON.exists():
        pytest.skip(f"there is no {PYTHON.relative_to(PROJECT)}; make vllm installs vLLM")
    with vllm_server_of(TINY_MISTRAL, tmp_path_factory.mktemp("vllm") / "server.log") as server:
        yield server


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(server: VllmServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_UP
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/health", timeout=5, trust_env=False).is_success:
                return
        time.sleep(0.5)
    state = f"ended with {process.returncode}" if process.returncode is not None else f"is not up after {START_UP} s"
    end = "\n".join(server.log.read_text("utf-8", "replace").splitlines()[-40:])
    raise RuntimeError(f"vLLM {state}; its log ends with\n{end}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to stop, and see that its engine and worker are gone with it."""
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP)
    deadline = time.monotonic() + 10
    while (alive := _alive(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not alive, f"vLLM was told to stop and left {alive}"


def _alive(group: int) -> list[str]:
    """Command names of the processes of a group, zombies left out."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            name, fields = stat.read_text().split("(", 1)[1].rsplit(")", 1)
            state, _, of_group = fields.split()[:3]
            if int(of_group) == group and state != "Z":
                found.append(name)
    return found
