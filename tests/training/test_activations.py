"""Checkpointing only where memory asks for it: what auto chooses, what it says, and that it is then done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from tests.training_fixtures import splits, tiny_settings
from text2sql.errors import ModelError
from text2sql.training import activations
from text2sql.training import finetune as finetuning
from text2sql.training.activations import choose_activations, largest_batch
from text2sql.training.planner.memory import MicroBatch, estimate
from text2sql.training.planner.plan import MARGIN, added, method_of
from text2sql.training.planner.shape import shape_of
from text2sql.training.tokens import FEATURES, IGNORED

LENGTHS = (9, 20, 12, 11, 10)


@pytest.fixture
def rows() -> Dataset:
    """The last three tokens of each have loss."""
    labels = [[IGNORED] * (length - 3) + [7] * 3 for length in LENGTHS]
    ids = [[7] * length for length in LENGTHS]
    return Dataset.from_dict({"input_ids": ids, "labels": labels, "length": list(LENGTHS)}, features=FEATURES)


@pytest.mark.parametrize(("share", "again"), [(1.01, False), (0.99, True)])
def test_auto_keeps_what_fits_with_a_margin(
    tiny_model: Path, tmp_path: Path, rows: Dataset, monkeypatch: pytest.MonkeyPatch, share: float, again: bool
) -> None:
    settings = tiny_settings(tiny_model, tmp_path, training={"gradient_checkpointing": "auto"})
    method = method_of(settings, torch.device("cpu"))
    needs = added(estimate(shape_of(settings.model), method, MicroBatch(4, 20, 12)))
    monkeypatch.setattr(activations, "free_memory", lambda: share * (1 + MARGIN) * needs)
    found = choose_activations(settings, rows, None, copied=False, attention="sdpa")
    assert found.again is again
    assert str(found).startswith("checkpointing on (auto: " if again else "no checkpointing (auto: ")
    assert "takes 2 MiB as planned" in found.reason


@pytest.mark.parametrize("asked", [True, False])
def test_what_is_set_is_done_whatever_is_free(
    tiny_model: Path, tmp_path: Path, rows: Dataset, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    monkeypatch.setattr(activations, "free_memory", lambda: 0)
    settings = tiny_settings(tiny_model, tmp_path, training={"gradient_checkpointing": asked})
    assert choose_activations(settings, rows, None, False, "sdpa") == activations.Activations(asked, "as set")


def test_processes_share_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "free_memory", lambda: 300)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert activations.free_on(torch.device("cpu")) == 100


def test_what_cannot_be_planned_is_trained_the_careful_way(
    tiny_model: Path, tmp_path: Path, rows: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_: Any) -> Any:
        raise ModelError("the memory of 'x' cannot be planned")

    monkeypatch.setattr(activations, "shape_of", unknown)
    settings = tiny_settings(tiny_model, tmp_path, training={"gradient_checkpointing": "auto"})
    found = choose_activations(settings, rows, None, False, "sdpa")
    assert str(found) == "checkpointing on (auto: the memory of 'x' cannot be planned)"


def test_the_largest_batch_is_that_of_most_tokens(tiny_model: Path, tmp_path: Path, rows: Dataset) -> None:
    settings = tiny_settings(tiny_model, tmp_path)
    assert largest_batch(settings, rows, None, masked=True) == MicroBatch(4, 20, 12)
    assert largest_batch(settings, rows, 33, masked=True) == MicroBatch(3, 11, 9), "not the one row of 20"
    assert largest_batch(settings, rows, 10, masked=True) == MicroBatch(1, 20, 3), "alone, whatever the limit"
    packed = tiny_settings(tiny_model, tmp_path, training={"packing": True, "max_length": 64})
    assert largest_batch(packed, rows, None, masked=False) == MicroBatch(4, 64, 62, masked=False)  # 15 of 62 tokens


def test_a_run_says_it_does_it_and_learns_the_same(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainers: list[Any] = []
    build = finetuning.build_trainer

    def watched(*arguments: Any) -> Any:
        trainers.append(build(*arguments))
        return trainers[-1]

    monkeypatch.setattr(finetuning, "build_trainer", watched)
    losses = []
    for free in (2**40, 0):
        monkeypatch.setattr(activations, "free_memory", lambda free=free: free)
        changes = {"gradient_checkpointing": "auto", "max_steps": 2, "checkpoint_dir": tmp_path / str(free)}
        trained = finetuning.finetune(splits(), tiny_settings(tiny_model, tmp_path, training=changes))
        losses.append(trained.history[-1]["loss"])
    kept, again = (trainer.model.get_base_model().is_activation_checkpointing for trainer in trainers)
    assert (kept, again) == (False, True)
    said = [line for line in capsys.readouterr().err.splitlines() if "(auto: " in line]
    assert "no checkpointing (auto: to keep activations takes 2 MiB" in said[0]
    assert "1,024.0 GiB are free)" in said[0]
    assert "checkpointing on (auto: " in said[1]
    assert "0 MiB are free)" in said[1]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
