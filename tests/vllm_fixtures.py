"""A real vLLM server on the CPU, started once a session by our own command; tests that use it carry the marker `vllm`.

It serves in bf16 unless TEXT2SQL_VLLM_DTYPE says float32: the same tests hold in both.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
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
from text2sql.serving.supervisor import free_port

if TYPE_CHECKING:
    from datasets import Dataset

PROJECT = Path(__file__).parents[1]
PYTHON = PROJECT / ".venv-vllm" / "bin" / "python"
TINY_MISTRAL = PROJECT / "assets" / "tiny-mistral"
DTYPE = os.environ.get("TEXT2SQL_VLLM_DTYPE", "bfloat16")
KEY = "a key of the tests"
START_UP = 420
"""Seconds: two processes import vLLM one after the other, half a minute in all on two idle cores."""
STOP = 30


@dataclass(frozen=True)
class VllmServer:
    """Where it listens, what it serves, and the file it logs to."""

    url: str
    model: str
    folder: Path
    dtype: str
    api_key: str
    log: Path


@dataclass
class Command:
    """`python -m text2sql serve …`, and every process below it."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait_for(self, path: str, seconds: float = START_UP) -> None:
        """Until this path answers 200."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}{path}", timeout=5, trust_env=False).is_success:
                    return
            time.sleep(0.2)
        end = "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-40:])
        raise RuntimeError(
            f"{path} is not there after {seconds} s ({self.process.poll()}); vLLM's log ends with\n{end}"
        )

    def vllm(self) -> tuple[int, str]:
        """vLLM's own process id, which leads its group, and its address."""
        for pid in below(self.process.pid):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if words[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]:
                return pid, f"http://127.0.0.1:{words[words.index('--port') + 1]}"
        raise AssertionError("vLLM does not run")

    def stop(self) -> int:
        """Ask it to stop, and see that all it started is gone with it; the exit code."""
        family = {self.process.pid: _started(self.process.pid)}
        family |= {pid: _started(pid) for pid in below(self.process.pid)}
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP)
        finally:
            left = [pid for pid, started in family.items() if started and _started(pid) == started]
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            self.process.wait()
        assert not left, f"it was told to stop and left {left}"
        return code


@contextlib.contextmanager
def command(log: Path, *words: str, **environment: str) -> Iterator[Command]:
    """`python -m text2sql serve` with these words, on a free port of loopback; no process is left behind."""
    if not PYTHON.exists():
        pytest.skip(f"there is no {PYTHON.relative_to(PROJECT)}; make vllm installs vLLM")
    port = free_port()
    settings = (f"port={port}", f"vllm_log={log}", f"vllm_python={PYTHON}", f"vllm_startup_seconds={START_UP}")
    options = [f"--set={setting}" for setting in settings]
    process = subprocess.Popen(
        [sys.executable, "-m", "text2sql", "serve", *words, *options],
        cwd=PROJECT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        stderr=subprocess.DEVNULL,
    )
    running = Command(f"http://127.0.0.1:{port}", process, log)
    try:
        yield running
    finally:
        if process.poll() is None:
            assert running.stop() == 0


def below(pid: int) -> list[int]:
    """Every process that descends from this one."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(stat.parent.name))
    children = parents.get(pid, [])
    return children + [one for child in children for one in below(child)]


def _started(pid: int) -> str:
    """When a process began, which tells it from a later one of the same number; empty where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


@pytest.fixture(scope="session")
def known_rows() -> Dataset:
    """200 rows with `prompt` and `completion`, whose answers the served model knows."""
    from datasets import Dataset

    return format_split(Dataset.from_list(generate_rows(200, seed=5, profile="base")), DataSection().prompt_template)


@pytest.fixture(scope="session")
def taught_model(known_rows: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Mistral of assets/, taught the known rows."""
    folder = tmp_path_factory.mktemp("taught") / "model"
    _teach(known_rows, folder)
    return folder


@pytest.fixture(scope="session")
def vllm_server(taught_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """`serve --mode vllm` of the taught model, under an API key.

    It is told a repetition penalty, as a generation_config.json might: a client must ask for none.
    """
    log = tmp_path_factory.mktemp("vllm") / "vllm.log"
    arguments = (f"--dtype {DTYPE}", "--override-generation-config '{\"repetition_penalty\": 1.5}'")
    words = ["--mode", "vllm", "--model", str(taught_model), "--set", "served_name=tiny"]
    words += [f"--vllm-arg={argument}" for argument in arguments]
    with command(log, *words, VLLM_API_KEY=KEY) as served:
        served.wait_for("/health")
        yield VllmServer(served.url, "tiny", taught_model, DTYPE, KEY, log)


@pytest.fixture(scope="session")
def transformers_answers(taught_model: Path, known_rows: Dataset) -> list[str]:
    """What the taught model answers to the known rows in this process, in the data type that vLLM serves."""
    import torch
    from transformers import AutoModelForCausalLM

    from text2sql.config import EvaluationSection, ModelSection
    from text2sql.evaluation.answering import LocalModel
    from text2sql.training.model import load_tokenizer

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as below
    model = AutoModelForCausalLM.from_pretrained(taught_model, dtype=DTYPE)
    tokenizer = load_tokenizer(ModelSection(name=str(taught_model)))
    limits = EvaluationSection(max_new_tokens=64, batch_size=40)
    answers = LocalModel(model, tokenizer, limits, "here").answers(known_rows["prompt"][:])
    torch.set_num_threads(threads)
    return answers


def _teach(rows: Dataset, folder: Path, epochs: int = 8, batch_size: int = 20) -> None:
    """Learn the rows by heart: the base alone wavers between tokens, and bf16 then decides by how a sum is rounded."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several only wait for each other at this size, and long on a busy machine
    tokenizer = AutoTokenizer.from_pretrained(TINY_MISTRAL)
    model = AutoModelForCausalLM.from_pretrained(TINY_MISTRAL, dtype=torch.float32)
    encoded = sorted(
        encode_rows(tokenizer, rows["prompt"][:], rows["completion"][:]), key=lambda row: len(row["input_ids"])
    )
    batches = [encoded[start : start + batch_size] for start in range(0, len(encoded), batch_size)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=epochs * len(batches))
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
            schedule.step()
            optimizer.zero_grad()
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.set_num_threads(threads)
