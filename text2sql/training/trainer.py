"""TRL's SFTTrainer with a data order that repeats, checkpoints that are sealed, and a loss that must stay finite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import TrainerState
from trl.trainer.sft_trainer import SFTTrainer

from text2sql.errors import TrainingError
from text2sql.training.checkpoints import CheckpointStore, writing

IGNORED = -100
"""The label that the loss leaves out."""
PLAIN_HEADS = {"llama", "mistral", "qwen2", "qwen3"}
"""Architectures whose logits are the head's product with the last hidden state; others scale or cap them."""

BATCHES_A_POOL = 50
"""Rows are sorted by length within pools of this many batches: enough to save padding, and still a random order."""


class EpochSampler(Sampler[int]):
    """A row order that is a function of seed and epoch alone, with rows of like length side by side if asked for.

    transformers' own LengthGroupedSampler draws from the global generator, which dropout advances too, so that a
    resumed run would see other batches than one never killed; and its steps run from long to short rows.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, grouped: bool) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.grouped = grouped
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
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


class AdapterTrainer(SFTTrainer):
    """Fine-tunes a PEFT model on tokenised rows (`input_ids`, `labels`) and seals its checkpoints in a store."""

    def __init__(self, *args: Any, store: CheckpointStore, sampler: EpochSampler | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.store = store
        self.sampler = sampler
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
        """On the CPU, the mean loss over completion tokens with logits for these tokens alone.

        TRL leaves masked positions out where it has Triton, and elsewhere computes logits, entropy and accuracy for
        the prompts too: the embedded base then trained at 2,560 tokens/s instead of 3,510 (one thread).
        """
        architecture = self.accelerator.unwrap_model(model).get_base_model().config.model_type
        if self.args.device.type != "cpu" or return_outputs or architecture not in PLAIN_HEADS:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[no-untyped-call]
        labels = inputs["labels"][:, 1:]
        wanted = labels != IGNORED
        base = self.accelerator.unwrap_model(model).get_base_model()
        with self.accelerator.autocast():
            known = {name: value for name, value in inputs.items() if name != "labels"}
            hidden = base.base_model(**known, use_cache=False).last_hidden_state[:, :-1][wanted]
            logits = base.get_output_embeddings()(hidden).float()
        total = torch.nn.functional.cross_entropy(logits, labels[wanted], reduction="sum")
        return total / (max(len(logits), 1) if num_items_in_batch is None else num_items_in_batch)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)  # type: ignore[no-untyped-call]
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
            if self.args.should_save:
                self.store.seal(self.state.global_step)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The adapter alone: the tokenizer does not change, and pickled arguments are of no use."""
        if self.args.should_save:
            save_adapter(self.model, Path(output_dir or self.args.output_dir or "."), state_dict)


def save_adapter(model: Any, folder: Path, state_dict: dict[str, Any] | None = None) -> None:
    """adapter_model.safetensors and adapter_config.json, without copies of the embeddings.

    peft's "auto" would ask the hub for the base's config to see whether the vocabulary grew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder), state_dict=state_dict, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
