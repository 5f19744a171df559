"""Processes (gloo, CPU) on two nodes train as one does: the same rows a step, the same losses, one set of files."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training_fixtures import splits, tiny_settings
from text2sql.config import Settings, TrainingSection
from text2sql.errors import TrainingError, TrainingInterrupted
from text2sql.training import distributed
from text2sql.training.distributed import finetune_here, read_result, share_of_step, torchrun, write_job
from text2sql.training.finetune import TrainedAdapter


def losses(trained: TrainedAdapter, key: str) -> dict[float, float]:
    return {entry["step"]: entry[key] for entry in trained.history if key in entry}


def without_dropout(model: Path, workdir: Path, processes: int) -> Settings:
    """Each process draws its own dropout; without it, losses can be compared."""
    return tiny_settings(model, workdir, lora={"lora_dropout": 0.0}, training={"processes": processes})


@pytest.fixture
def few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def on_two_nodes(settings: Settings, job: Path) -> TrainedAdapter:
    """As two machines do it: a torchrun each, with a process each, that meet at an address and share folders."""
    write_job(job, splits(), settings, job / "adapter")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = torchrun(job, 1, nodes=2, first="127.0.0.1", port=port)
    nodes = [subprocess.Popen(command, env={**os.environ, "PET_NODE_RANK": str(rank)}) for rank in range(2)]
    try:
        codes = [node.wait(240) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    return read_result(job, TrainingError(f"ended with {codes}"))


@pytest.mark.slow
@pytest.mark.usefixtures("few_threads")
def test_the_losses_on_two_nodes_are_those_of_one_process(tiny_model: Path, tmp_path: Path) -> None:
    """48 rows, 4 x 2 a step with one process and 4 x 1 each with two; only the first writes, and cleans up."""
    settings = without_dropout(tiny_model, tmp_path, processes=1)
    one = finetune_here(splits(), settings, tmp_path / "adapter-1")
    two = on_two_nodes(settings, tmp_path / "job")
    assert (two.steps, two.resumed_from) == (one.steps, None)
    for key, tolerance in (("loss", 1e-3), ("eval_loss", 1e-2), ("grad_norm", 1e-2), ("tokens", 0)):
        assert losses(two, key) == pytest.approx(losses(one, key), rel=tolerance), key
    ours, theirs = (load_file(t.path / "adapter_model.safetensors") for t in (two, one))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-2, atol=2e-3)
    assert not list((tmp_path / "checkpoints").iterdir())


STOPPED_ON_REQUEST = """
import json, pathlib, signal, sys, time
def stop(*_):
    (pathlib.Path(sys.argv[1]) / "error-0.json").write_text(json.dumps(["TrainingInterrupted", "stopped at step 3"]))
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
(pathlib.Path(sys.argv[1]) / "up").touch()
time.sleep(60)
"""


def test_sigterm_is_handed_on_and_what_a_process_said_is_raised(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def processes_of(job: Path, count: int) -> list[str]:
        command = torchrun(job, count)
        assert ("--standalone" in command, f"--nproc-per-node={count}" in command, command[-1]) == (
            True,
            True,
            str(job),
        )
        threading.Thread(target=terminate_once_up, args=[job]).start()
        return [sys.executable, "-c", STOPPED_ON_REQUEST, str(job)]

    def terminate_once_up(job: Path) -> None:
        while not (job / "up").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(distributed, "torchrun", processes_of)
    with pytest.raises(TrainingInterrupted, match="stopped at step 3"):
        finetune_here(splits(), without_dropout(tiny_model, tmp_path, processes=2), tmp_path / "adapter")


def test_the_first_error_is_the_cause_of_the_others(tmp_path: Path) -> None:
    for number, (rank, said) in enumerate([(3, "CUDA out of memory"), (0, "connection closed by peer")]):
        (tmp_path / f"error-{rank}.json").write_text(json.dumps(["TrainingError", said]))
        os.utime(tmp_path / f"error-{rank}.json", (number, number))
    with pytest.raises(TrainingError, match="CUDA out of memory"):
        read_result(tmp_path, TrainingError("silent"))


def test_processes_that_ended_without_a_word(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="code 137"):
        read_result(tmp_path, TrainingError("ended with code 137"))


@pytest.mark.parametrize(
    ("rows", "passes", "count", "share"), [(4, 4, 2, (4, 2)), (8, 3, 4, (2, 3)), (4, 4, 1, (4, 4))]
)
def test_a_step_has_as_many_rows_whoever_shares_it(rows: int, passes: int, count: int, share: tuple[int, int]) -> None:
    training = TrainingSection(per_device_train_batch_size=rows, gradient_accumulation_steps=passes)
    assert share_of_step(training, count) == share


def test_a_step_that_cannot_be_shared() -> None:
    with pytest.raises(TrainingError, match=r"3 processes cannot share 4 rows x 4 passes"):
        share_of_step(TrainingSection(), 3)
