"""What processes that train together share, and what the one that started them learns of their end."""

from __future__ import annotations

import json
import os
import signal
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
from text2sql.training.distributed import finetune_here, read_result, share_of_step, torchrun


def without_dropout(model: Path, workdir: Path, processes: int) -> Settings:
    """Each process draws its own dropout; without it, losses can be compared."""
    return tiny_settings(model, workdir, lora={"lora_dropout": 0.0}, training={"processes": processes})


@pytest.fixture
def few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


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


@pytest.mark.slow
@pytest.mark.usefixtures("few_threads")
def test_a_last_step_of_few_rows_has_none_of_them_twice(tiny_model: Path, tmp_path: Path) -> None:
    """41 rows, 8 a step: one is left for the last, and the second process has nothing to teach there."""
    trained = []
    for count in (1, 2):
        settings = without_dropout(tiny_model, tmp_path / str(count), count)
        training = settings.training.model_copy(update={"max_steps": None, "num_train_epochs": 1})
        settings = settings.model_copy(update={"training": training})
        trained.append(finetune_here(splits(train=41), settings, tmp_path / str(count) / "adapter"))
    one, two = (load_file(found.path / "adapter_model.safetensors") for found in trained)
    assert [found.steps for found in trained] == [6, 6]
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-4)


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
