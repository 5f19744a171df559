from __future__ import annotations

import itertools
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training_fixtures import splits, tiny_settings
from text2sql.config import Settings
from text2sql.errors import OutputError, TrainingError, TrainingInterrupted
from text2sql.training.arguments import choose_optimizer, describe
from text2sql.training.checkpoints import CheckpointStore, StopRequest
from text2sql.training.finetune import (
    TrainedAdapter,
    _write,
    build_trainer,
    finetune,
    tokenize,
    with_adapter,
)
from text2sql.training.model import load_base, load_tokenizer, quiet
from text2sql.training.muon import Muon
from text2sql.training.trainer import AdapterTrainer, EpochSampler


def losses(trained: TrainedAdapter) -> dict[int, float]:
    return {int(entry["step"]): entry["loss"] for entry in trained.history}


def test_what_a_run_reports(trained: TrainedAdapter) -> None:
    assert (trained.steps, trained.resumed_from, trained.left_out) == (12, None, 0)
    assert list(losses(trained)) == [2, 4, 6, 8, 10, 12]
    assert [entry["step"] for entry in trained.history if "eval_loss" in entry] == [6, 12]
    for entry in trained.history:
        assert entry["grad_norm"] > 0
        assert entry["tokens_per_second"] > 0
    assert 0 < trained.trainable_parameters < trained.total_parameters / 5


def test_it_learns(trained: TrainedAdapter) -> None:
    found = losses(trained)
    assert found[12] < found[2] - 0.3


def test_tokens_are_those_that_are_not_padding(trained: TrainedAdapter, tiny_model: Path, tmp_path: Path) -> None:
    """12 steps of 8 rows are two epochs of the 48 rows."""
    settings = tiny_settings(tiny_model, tmp_path)
    rows, _ = tokenize(splits()["train"], load_tokenizer(settings.model), 128)
    assert trained.history[-1]["tokens"] == 2 * sum(rows["length"])


def test_the_adapter_holds_lora_alone_in_fp32_and_the_checkpoints_are_gone(trained: TrainedAdapter) -> None:
    weights = load_file(trained.path / "adapter_model.safetensors")
    assert all(".lora_A." in name or ".lora_B." in name for name in weights)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert sum(tensor.numel() for tensor in weights.values()) == trained.trainable_parameters
    assert (trained.path / "tokenizer.json").is_file()
    assert not list((trained.path.parent / "checkpoints").iterdir())


def test_the_trainer_sees_sql_and_end_token_only(settings: Settings, tmp_path: Path) -> None:
    """The batches that reach the model: -100 over prompt and padding, one end token, and it counts."""
    tokenizer = load_tokenizer(settings.model)
    rows, _ = tokenize(splits()["train"], tokenizer, 128)
    with quiet():
        model = with_adapter(load_base(settings.model, settings.training), settings.lora, settings.training)
        store = CheckpointStore(tmp_path / "run", 1)
        trainer = build_trainer(
            model, tokenizer, rows, None, settings, "adamw_torch", False, store, StopRequest(), None
        )
    answers = set()
    for batch in trainer.get_train_dataloader():
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            counted = labels != -100
            assert torch.equal(labels[counted], ids[counted])
            assert not counted[mask == 0].any()
            assert ids[mask == 1].tolist().count(tokenizer.eos_token_id) == 1
            assert ids[counted][-1] == tokenizer.eos_token_id
            assert tokenizer.decode(ids[~counted & (mask == 1)], skip_special_tokens=True).endswith("?\n")
            answers.add(tokenizer.decode(ids[counted][:-1]))
    assert answers == set(splits()["train"]["completion"])


def test_the_loss_is_the_mean_over_completion_tokens(settings: Settings, tmp_path: Path) -> None:
    """TRL's figure against one computed here from the logits of the same base (fresh LoRA changes nothing)."""
    tokenizer = load_tokenizer(settings.model)
    rows, _ = tokenize(splits()["train"].select(range(4)), tokenizer, 128)
    with quiet():
        model = with_adapter(load_base(settings.model, settings.training), settings.lora, settings.training)
        store = CheckpointStore(tmp_path / "run", 1)
        trainer = build_trainer(
            model, tokenizer, rows, rows, settings, "adamw_torch", False, store, StopRequest(), None
        )
        measured = trainer.evaluate()["eval_loss"]
    total, count = 0.0, 0
    model.eval()
    for row in rows:
        ids, labels = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
        with torch.no_grad():
            logits = model(ids[None]).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum"))
        count += int((labels[1:] != -100).sum())
    assert measured == pytest.approx(total / count, rel=1e-4)


def test_packed_rows_do_not_see_each_other(tiny_model: Path, tmp_path: Path) -> None:
    """The loss over packed rows is that over the same rows apart."""
    found = []
    for packing in (False, True):
        settings = tiny_settings(tiny_model, tmp_path, training={"packing": packing, "max_length": 256})
        tokenizer = load_tokenizer(settings.model)
        rows, _ = tokenize(splits()["train"].select(range(8)), tokenizer, 256)
        with quiet():
            model = with_adapter(load_base(settings.model, settings.training), settings.lora, settings.training)
            store = CheckpointStore(tmp_path / f"run-{packing}", 1)
            trainer = build_trainer(
                model, tokenizer, rows, rows, settings, "adamw_torch", False, store, StopRequest(), None
            )
            found.append(trainer.evaluate()["eval_loss"])
            assert (len(trainer.train_dataset) < len(rows)) == packing
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_cpus_loss_is_that_of_trl(tiny_model: Path, tmp_path: Path, precision: str) -> None:
    """Value and gradient, also under autocast."""
    settings = tiny_settings(tiny_model, tmp_path, training={"precision": precision}, lora={"lora_dropout": 0.0})
    tokenizer = load_tokenizer(settings.model)
    rows, _ = tokenize(splits()["train"], tokenizer, 128)
    with quiet():
        model = with_adapter(load_base(settings.model, settings.training), settings.lora, settings.training)
        store = CheckpointStore(tmp_path / "run", 1)
        trainer = build_trainer(
            model, tokenizer, rows, None, settings, "adamw_torch", False, store, StopRequest(), None
        )
        batch = next(iter(trainer.get_train_dataloader()))
        found = []
        for compute in (trainer.compute_loss, super(AdapterTrainer, trainer).compute_loss):
            model.zero_grad()
            with trainer.accelerator.autocast():
                loss = compute(model, dict(batch), num_items_in_batch=torch.tensor(100))
            loss.backward()
            gradients = [p.grad.flatten() for p in model.parameters() if p.requires_grad and p.grad is not None]
            found.append((float(loss.detach()), torch.cat(gradients)))
    (ours, our_gradient), (theirs, their_gradient) = found
    assert ours == pytest.approx(theirs, rel=1e-5 if precision == "fp32" else 1e-2)
    assert their_gradient.abs().max() > 0
    assert torch.cosine_similarity(our_gradient, their_gradient, dim=0) > 0.99


def test_long_rows_are_left_out_and_named(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = load_tokenizer(tiny_settings(tiny_model, tmp_path).model)
    rows, _ = tokenize(splits()["train"], tokenizer, 10**6)
    limit = max(rows["length"]) - 1
    kept, left_out = tokenize(splits()["train"], tokenizer, limit)
    assert max(kept["length"]) <= limit
    assert left_out == 48 - len(kept) > 0
    settings = tiny_settings(tiny_model, tmp_path, training={"max_length": limit, "max_steps": 1})
    assert finetune(splits(), settings).left_out == left_out
    assert f"{left_out} of 48 training rows" in capsys.readouterr().err


def test_no_row_left(tiny_model: Path, tmp_path: Path) -> None:
    settings = tiny_settings(tiny_model, tmp_path, training={"max_length": 17})
    with pytest.raises(TrainingError, match="all 48 have more than training.max_length = 17"):
        finetune(splits(), settings)


def test_without_an_output_the_adapter_stays_with_the_run(tiny_model: Path, tmp_path: Path) -> None:
    settings = tiny_settings(tiny_model, tmp_path, training={"max_steps": 1, "gradient_checkpointing": True})
    rows = splits(8, 0)
    trained = finetune(rows, settings)
    assert trained.path.is_relative_to(tmp_path / "checkpoints")
    assert [path.name for path in trained.path.parent.iterdir()] == ["adapter"]
    assert (trained.path / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("name", ["paged_adamw_32bit", "adamw_torhc"])
def test_optimizers_that_cannot_be(name: str) -> None:
    message = "needs a CUDA GPU" if name.startswith("paged") else "did you mean adamw_torch"
    with pytest.raises(TrainingError, match=message):
        choose_optimizer(name, cuda=False)


def test_auto_optimizer() -> None:
    assert choose_optimizer("auto", cuda=True) == "paged_adamw_32bit"
    assert choose_optimizer("auto", cuda=False) == "adamw_torch_fused"


def test_muon_goes_on_with_its_momentum(tiny_model: Path, tmp_path: Path) -> None:
    """… with checkpointing where it began without: a run whose memory ran out need not begin again."""

    def settings(folder: str, **more: bool) -> Settings:
        return tiny_settings(tiny_model, tmp_path / folder, training={"optim": "muon", "max_steps": 6, **more})

    def stop(found: dict[str, float]) -> None:
        if found["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    whole = finetune(splits(), settings("whole"))
    with pytest.raises(TrainingInterrupted):
        finetune(splits(), settings("parts"), stop)
    parts = finetune(splits(), settings("parts", gradient_checkpointing=True))
    assert parts.resumed_from == 3
    assert losses(parts)[6] == pytest.approx(losses(whole)[6], rel=1e-3)
    assert losses(whole)[6] < losses(whole)[2]


def test_muon_is_what_steps(tiny_model: Path, tmp_path: Path) -> None:
    settings = tiny_settings(tiny_model, tmp_path, training={"optim": "muon"})
    tokenizer = load_tokenizer(settings.model)
    rows, _ = tokenize(splits()["train"], tokenizer, settings.training.max_length)
    store = CheckpointStore(tmp_path / "run", 1)
    with quiet():
        model = with_adapter(load_base(settings.model, settings.training), settings.lora, settings.training)
        trainer = build_trainer(model, tokenizer, rows, None, settings, "muon", False, store, StopRequest(), None)
        assert type(trainer.create_optimizer()) is Muon
    assert "muon" in describe(trainer, settings, 0, "no checkpointing")


def test_target_modules_that_match_nothing(tiny_model: Path, tmp_path: Path) -> None:
    settings = tiny_settings(tiny_model, tmp_path, lora={"target_modules": ["q_proj", "qate_proj"]})
    base = load_base(settings.model, settings.training)
    with pytest.raises(TrainingError, match=r"\['qate_proj'\] match no layer.*did you mean gate_proj"):
        with_adapter(base, settings.lora, settings.training)


def test_a_loss_that_is_not_finite_ends_the_run(tiny_model: Path, tmp_path: Path) -> None:
    changes = {"learning_rate": 1e30, "max_grad_norm": 1e30, "warmup_ratio": 0.0}
    with pytest.raises(TrainingError, match=r"diverged; lower training.learning_rate"):
        finetune(splits(), tiny_settings(tiny_model, tmp_path, training=changes))
    assert not list((tmp_path / "checkpoints").glob("*/adapter"))


def killed_run(settings: Settings, tmp_path: Path, step: int) -> None:
    """The same training in a process of its own, which SIGKILL ends once `step` has been logged."""
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    script = f"""
import os, pathlib, signal
from tests.training_fixtures import splits
from text2sql.config import Settings
from text2sql.training.finetune import finetune
settings = Settings.model_validate_json(pathlib.Path({str(tmp_path / "settings.json")!r}).read_text())
finetune(splits(), settings, lambda found: found["step"] == {step} and os.kill(os.getpid(), signal.SIGKILL))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], timeout=120, check=False, env=environment
    )
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_complete_checkpoint(
    trained: TrainedAdapter, tiny_model: Path, tmp_path: Path
) -> None:
    """Killed in step 10, after the checkpoint of step 8; that of step 8 is then damaged, as by a kill while saving."""
    settings = tiny_settings(tiny_model, tmp_path)
    killed_run(settings, tmp_path, step=10)
    [run] = (tmp_path / "checkpoints").iterdir()
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-8"]
    (run / "checkpoint-8" / "optimizer.pt").write_bytes(b"")
    resumed = finetune(splits(), settings)
    assert (resumed.resumed_from, resumed.steps) == (4, trained.steps)
    assert losses(resumed) == pytest.approx(losses(trained), rel=1e-3)
    ours, theirs = (load_file(t.path / "adapter_model.safetensors") for t in (resumed, trained))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-2, atol=1e-3)


def test_sigterm_saves_and_the_same_call_goes_on(trained: TrainedAdapter, tiny_model: Path, tmp_path: Path) -> None:
    settings = tiny_settings(tiny_model, tmp_path, training={"save_steps": 100})

    def stop(found: dict[str, float]) -> None:
        if found["step"] == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingInterrupted, match="at step 7 of 12.*same command goes on"):
        finetune(splits(), settings, stop)
    resumed = finetune(splits(), settings)
    assert (resumed.resumed_from, resumed.steps) == (7, 12)
    assert losses(resumed)[12] == pytest.approx(losses(trained)[12], rel=1e-3)


def test_a_run_killed_after_its_last_step_takes_no_more(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(tiny_model, tmp_path, training={"max_steps": 4})

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("text2sql.training.finetune._write", kill)
        with pytest.raises(Killed):
            finetune(splits(), settings)
    seen: list[dict[str, float]] = []
    resumed = finetune(splits(), settings, seen.append)
    assert (resumed.resumed_from, resumed.steps, seen) == (4, 4, [])
    assert list(losses(resumed)) == [2, 4]


@contextmanager
def largest_file(limit: int) -> Iterator[None]:
    """Writes beyond `limit` bytes a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [16_000, 40_000])  # in the weights (safetensors), and in the optimizer (torch)
def test_a_full_disk_is_one_line(tiny_model: Path, tmp_path: Path, limit: int) -> None:
    settings = tiny_settings(tiny_model, tmp_path)
    with largest_file(limit), pytest.raises(OutputError, match="the disk is full") as caught:
        finetune(splits(), settings)
    assert "\n" not in str(caught.value)
    [run] = (tmp_path / "checkpoints").iterdir()
    assert CheckpointStore(run, 1).last_complete() is None


def test_a_full_disk_leaves_no_half_adapter(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fills up after the last checkpoint; once there is room, only the adapter is written."""
    settings = tiny_settings(tiny_model, tmp_path, training={"max_steps": 1})
    output = tmp_path / "out" / "adapter"

    def write(*arguments: Any) -> None:
        with largest_file(16_000):
            _write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("text2sql.training.finetune._write", write)
        with pytest.raises(OutputError, match="the disk is full"):
            finetune(splits(), settings, output=output)
    assert list(output.parent.iterdir()) == []
    assert finetune(splits(), settings, output=output).resumed_from == 1
    assert (output / "adapter_model.safetensors").is_file()


def test_wandb_offline(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    settings = tiny_settings(
        tiny_model,
        tmp_path,
        training={"max_steps": 2},
        wandb={"enabled": True, "project": "made-up", "run_name": "tiny"},
    )
    finetune(splits(), settings)
    [log] = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    content = log.read_bytes()
    for word in (b"train/loss", b"eval/loss", b"train/learning_rate", b"train/tokens_per_second", b"made-up"):
        assert word in content, word


class TestEpochSampler:
    LENGTHS = tuple((7 * i) % 50 + 1 for i in range(1003))

    def order(self, epoch: int, seed: int = 1, grouped: bool = True) -> list[int]:
        sampler = EpochSampler(self.LENGTHS, 8, seed, grouped)
        sampler.set_epoch(epoch)
        return list(sampler)

    @pytest.mark.parametrize("grouped", [True, False])
    def test_every_row_once_in_another_order_each_epoch(self, grouped: bool) -> None:
        orders = [self.order(epoch, grouped=grouped) for epoch in range(3)]
        assert all(sorted(order) == list(range(1003)) for order in orders)
        assert orders[0] != orders[1] != orders[2]
        assert self.order(0, seed=2, grouped=grouped) != orders[0]

    @pytest.mark.parametrize(("multiple", "blanks"), [(1, 0), (17, 0), (8, 5)])
    def test_what_is_missing_from_the_last_batch_of_all_processes_is_blank(self, multiple: int, blanks: int) -> None:
        sampler = EpochSampler(self.LENGTHS, 8, 1, True, multiple)
        assert list(sampler) == self.order(0) + [1003] * blanks
        assert len(sampler) == 1003 + blanks

    def test_the_order_does_not_depend_on_the_global_generator(self) -> None:
        torch.manual_seed(1)
        first = self.order(1)
        torch.rand(10)
        assert self.order(1) == first

    def test_grouping_saves_padding(self) -> None:
        def padding(order: list[int]) -> int:
            batches = [[self.LENGTHS[row] for row in order[i : i + 8]] for i in range(0, len(order), 8)]
            return sum(max(batch) * len(batch) - sum(batch) for batch in batches)

        assert padding(self.order(0)) < padding(self.order(0, grouped=False)) / 4

    def test_long_batches_are_spread(self) -> None:
        order = self.order(0)
        means = [sum(self.LENGTHS[row] for row in order[i : i + 8]) / 8 for i in range(0, 400, 8)]
        falling = sum(a >= b for a, b in itertools.pairwise(means))
        assert 10 < falling < 40


def test_history_is_finite(trained: TrainedAdapter) -> None:
    assert all(math.isfinite(value) for entry in trained.history for value in entry.values())
