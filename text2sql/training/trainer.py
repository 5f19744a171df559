"""TRL's SFTTrainer with a data order that repeats, checkpoints that are sealed, and a loss that must stay finite."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from torch import nn
from torch.utils.data import Sampler
from transformers import TrainerState
from trl.trainer.sft_trainer import SFTTrainer

from text2sql.errors import TrainingError
from text2sql.training.checkpoints import CheckpointStore, writing
from text2sql.training.distributed import wait_for_all
from text2sql.training.loss import summed_loss
from text2sql.training.tokens import IGNORED

PLAIN_HEADS = {"llama", "mistral", "qwen2", "qwen3"}
"""Architectures whose logits are the head's product with the last hidden state; others scale or cap them."""

CPU_TOKENS = 1_024
"""Tokens of one pass on a CPU, where larger matrices gain nothing and activations grow out of its caches."""

BATCHES_A_POOL = 50
"""Rows are sorted by length within pools of this many batches: enough to save padding, and still a random order."""


class EpochSampler(Sampler[int]):
    """A row order that is a function of seed and epoch alone, with rows of like length side by side if asked for.

    transformers' own LengthGroupedSampler draws from the global generator, which dropout advances too, so that a
    resumed run would see other batches than one never killed; and its steps run from long to short rows.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, grouped: bool, multiple: int = 1) -> None:
        """The order is filled up to a `multiple` with the place behind the last row, where `with_blank` puts a blank.

        Processes that share the last batch would otherwise be given rows a second time.
        """
        self.lengths = lengths
        self.blanks = -len(lengths) % multiple
        self.batch_size = batch_size
        self.seed = seed
        self.grouped = grouped
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) + self.blanks

    def __iter__(self) -> Iterator[int]:
        return chain(self._order(), repeat(len(self.lengths), self.blanks))

    def _order(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        if not self.grouped:
            return iter(order)
        batches: list[list[int]] = []
        pool = BATCHES_A_POOL * self.batch_size
        for start in range(0, len(order), pool):
            ranked = sorted(order[start : start + pool], key=lambda row: self.lengths[row])
            batches += [ranked[i : i + self.batch_size] for i in range(0, len(ranked), self.batch_size)]
        partial = [batches.pop()] if len(batches[-1]) < self.batch_size else []  # only the last batch may be short
        shuffled = torch.randperm(len(batches), generator=generator).tolist()
        return iter([row for batch in [*(batches[i] for i in shuffled), *partial] for row in batch])


def with_blank(rows: Dataset, token: int) -> Dataset:
    """The rows, and behind them one that teaches nothing: a single token without loss."""
    blank = {"input_ids": [[token]], "labels": [[IGNORED]], "length": [1]}
    return concatenate_datasets([rows, Dataset.from_dict(blank, features=rows.features)])


def split_batch(batch: dict[str, torch.Tensor], tokens: int) -> list[dict[str, torch.Tensor]]:
    """A batch that is padded on the right, as parts of at most `tokens` tokens, padding included.

    Each is trimmed to its longest row. Rows of like length come together; one that is longer alone is a part by itself.
    """
    lengths = batch["attention_mask"].sum(1)
    order = lengths.argsort(descending=True, stable=True).tolist()
    groups: list[list[int]] = []
    for row in order:
        if groups and (len(groups[-1]) + 1) * int(lengths[groups[-1][0]]) <= tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return [{name: tensor[rows][:, : int(lengths[rows[0]])] for name, tensor in batch.items()} for rows in groups]


class AdapterTrainer(SFTTrainer):
    """Fine-tunes a PEFT model on tokenised rows (`input_ids`, `labels`) and seals its checkpoints in a store."""

    def __init__(
        self,
        *args: Any,
        store: CheckpointStore,
        sampler: EpochSampler | None,
        tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        """`tokens` limits a pass; batches of more are taken in parts."""
        super().__init__(*args, **kwargs)
        self.store = store
        self.sampler = sampler
        self.tokens = tokens
        self.waited = 0.0
        """Seconds spent waiting for data."""
        for parameter in self._trainable():
            # SFTTrainer casts the adapter of a quantised model to bf16, where late, small steps round to nothing.
            parameter.data = parameter.data.float()

    def _trainable(self) -> list[nn.Parameter]:
        model: Any = self.model
        return [parameter for parameter in model.parameters() if parameter.requires_grad]

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        return self.sampler if self.sampler is not None else super()._get_train_sampler(train_dataset)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """On the CPU, the mean loss over completion tokens with logits for these tokens alone, a tile at a time.

        TRL tiles them too, and leaves masked positions out where it has Triton; elsewhere it computes logits, entropy
        and accuracy for the prompts as well: the embedded base then trained at 2,560 tokens/s instead of 3,510 (one
        thread).
        """
        base = self.accelerator.unwrap_model(model).get_base_model()
        if self.args.device.type != "cpu" or return_outputs or base.config.model_type not in PLAIN_HEADS:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[no-untyped-call]
        labels = inputs["labels"][:, 1:]
        wanted = labels != IGNORED
        known = {name: value for name, value in inputs.items() if name != "labels"}
        if "attention_mask" in known and bool(known["attention_mask"][:, 0].all()):
            del known["attention_mask"]  # padding on the right comes after all that attention looks back at
        with self.accelerator.autocast():
            run = _through(model, base) if self.accelerator.num_processes > 1 else base.base_model
            hidden = run(**known, use_cache=False).last_hidden_state[:, :-1][wanted]
            total = summed_loss(hidden, base.get_output_embeddings(), labels[wanted])
        if num_items_in_batch is None:
            return total / max(len(hidden), 1)
        return total * self.accelerator.num_processes / num_items_in_batch  # those of all, whose gradients are averaged

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        batches = super().get_batch_samples(*args, **kwargs)
        self.waited += time.perf_counter() - started
        return batches

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward of one batch, in parts where it has more tokens than a pass may have.

        Parts change memory and speed alone: each one's loss is divided by the completion tokens of the whole step.
        """
        parts = [inputs]
        if self.tokens is not None and num_items_in_batch is not None and "attention_mask" in inputs:
            parts = split_batch(inputs, self.tokens)
        losses = []
        for part in parts[:-1]:
            with self.accelerator.no_sync(model):  # processes exchange gradients once a batch, whatever its parts
                losses.append(super().training_step(model, part, num_items_in_batch))  # type: ignore[no-untyped-call]
        losses.append(super().training_step(model, parts[-1], num_items_in_batch))  # type: ignore[no-untyped-call]
        loss: torch.Tensor = torch.stack(losses).sum()
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} at step {self.state.global_step + 1}: training has diverged; lower "
                f"training.learning_rate (= {self.args.learning_rate:g}) or training.max_grad_norm, or use "
                "training.precision bf16 or fp32"
            )
        return loss

    def restore(self, checkpoint: Path) -> None:
        """Weights and history of a checkpoint, as they were."""
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self._trainable()):
            raise TrainingError(
                f"the adapter's weights are no longer finite at step {self.state.global_step}: training has diverged; "
                f"lower training.learning_rate (= {self.args.learning_rate:g})"
            )
        with writing(self.store.folder):
            super(SFTTrainer, self)._save_checkpoint(model, trial)  # SFTTrainer's own writes a model card each time
            wait_for_all()  # each process has written the state of its own random numbers
            if self.args.should_save:
                self.store.seal(self.state.global_step)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The adapter alone: the tokenizer does not change, and pickled arguments are of no use."""
        if self.args.should_save:
            save_adapter(self.model, Path(output_dir or self.args.output_dir or "."), state_dict)


def _through(model: Any, base: Any) -> Callable[..., Any]:
    """What `base` returns below its head when all of `model` runs: DDP wants to see its own forward pass."""

    def run(**inputs: Any) -> Any:
        seen: list[Any] = []
        watch = base.base_model.register_forward_hook(lambda *call: seen.append(call[-1]))
        try:
            model(**inputs, logits_to_keep=1)  # the head cannot be left out, but may take the last token alone
        finally:
            watch.remove()
        return seen[0]

    return run


def save_adapter(model: Any, folder: Path, state_dict: dict[str, Any] | None = None) -> None:
    """adapter_model.safetensors and adapter_config.json, without copies of the embeddings.

    peft's "auto" would ask the hub for the base's config to see whether the vocabulary grew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder), state_dict=state_dict, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
