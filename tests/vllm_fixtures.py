"""A real vLLM server on the CPU, started once a session; tests that use it carry the marker `vllm`.

It serves in bf16 unless TEXT2SQL_VLLM_DTYPE says float32: the same tests hold in both.
"""

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
from typing import TYPE_CHECKING

import httpx
import pytest

from text2sql.config import DataSection
from text2sql.data.prompt import encode_rows, format_split
from text2sql.data.synthetic.generate import generate_rows

if TYPE_CHECKING:
    from datasets import Dataset

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
    dtype: str
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
    server = VllmServer(f"http://127.0.0.1:{port}", name, folder, dtype, key, log)
    try:
        _wait_until_healthy(server, process)
        yield server
    finally:
        _stop(process)


@pytest.fixture(scope="session")
def known_rows() -> Dataset:
    """200 rows with `prompt` and `completion`, whose answers the served model knows."""
    from datasets import Dataset

    return format_split(Dataset.from_list(generate_rows(200, seed=5, profile="base")), DataSection().prompt_template)


@pytest.fixture(scope="session")
def vllm_server(known_rows: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """The tiny Mistral of assets/, taught the known rows and served on the CPU."""
    if not PYTHON.exists():
        pytest.skip(f"there is no {PYTHON.relative_to(PROJECT)}; make vllm installs vLLM")
    folder = tmp_path_factory.mktemp("vllm")
    _teach(known_rows, folder / "model")
    dtype = os.environ.get("TEXT2SQL_VLLM_DTYPE", "bfloat16")
    with vllm_server_of(folder / "model", folder / "server.log", dtype) as server:
        yield server


def _teach(rows: Dataset, folder: Path, epochs: int = 8, batch_size: int = 20) -> None:
    """Learn the rows by heart: the base alone wavers between tokens, and bf16 then decides by how a sum is rounded."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY_MISTRAL)
    model = AutoModelForCausalLM.from_pretrained(TINY_MISTRAL, dtype=torch.float32)
    encoded = sorted(
        encode_rows(tokenizer, rows["prompt"][:], rows["completion"][:]), key=lambda row: len(row["input_ids"])
    )
    batches = [encoded[start : start + batch_size] for start in range(0, len(encoded), batch_size)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    order = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for batch in torch.randperm(len(batches), generator=order).tolist():
            width = len(batches[batch][-1]["input_ids"])
            ids = torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in batches[batch]])
            mask = [row["completion_mask"] + [0] * (width - len(row["input_ids"])) for row in batches[batch]]
            labels = ids.masked_fill(torch.tensor(mask) == 0, -100)
            model(input_ids=ids, labels=labels).loss.backward()  # padding comes last, and nothing attends to it
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


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
