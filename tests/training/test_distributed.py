"""Two processes (gloo, CPU) train as one does: the same rows a step, the same losses, one set of files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training_fixtures import splits, tiny_settings
from text2sql.config import Settings, TrainingSection
from text2sql.errors import TrainingError
from text2sql.training.distributed import finetune_here, share_of_step
from text2sql.training.finetune import TrainedAdapter


def losses(trained: TrainedAdapter, key: str) -> dict[float, float]:
    return {entry["step"]: entry[key] for entry in trained.history if key in entry}


def without_dropout(model: Path, workdir: Path, processes: int) -> Settings:
    """Each process draws its own dropout; without it, losses can be compared."""
    return tiny_settings(model, workdir, lora={"lora_dropout": 0.0}, training={"processes": processes})


@pytest.fixture
def few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.slow
@pytest.mark.usefixtures("few_threads")
def test_the_losses_are_those_of_one_process(tiny_model: Path, tmp_path: Path) -> None:
    """48 rows, 4 x 2 a step with one process and 4 x 1 each with two; only the first writes, and cleans up."""
    one, two = (
        finetune_here(splits(), without_dropout(tiny_model, tmp_path, count), tmp_path / f"adapter-{count}")
        for count in (1, 2)
    )
    assert (two.steps, two.resumed_from) == (one.steps, None)
    for key, tolerance in (("loss", 1e-3), ("eval_loss", 1e-2), ("grad_norm", 1e-2), ("tokens", 0)):
        assert losses(two, key) == pytest.approx(losses(one, key), rel=tolerance), key
    ours, theirs = (load_file(t.path / "adapter_model.safetensors") for t in (two, one))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-2, atol=2e-3)
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("rows", "passes", "count", "share"), [(4, 4, 2, (4, 2)), (8, 3, 4, (2, 3)), (4, 4, 1, (4, 4))]
)
def test_a_step_has_as_many_rows_whoever_shares_it(rows: int, passes: int, count: int, share: tuple[int, int]) -> None:
    training = TrainingSection(per_device_train_batch_size=rows, gradient_accumulation_steps=passes)
    assert share_of_step(training, count) == share


def test_a_step_that_cannot_be_shared() -> None:
    with pytest.raises(TrainingError, match=r"3 processes cannot share 4 rows x 4 passes"):
        share_of_step(TrainingSection(), 3)
