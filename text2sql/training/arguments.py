"""Our training section in the words of TRL and transformers."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from transformers.training_args import OptimizerNames
from trl.trainer.sft_config import SFTConfig

from text2sql.config import Settings, TrainingSection
from text2sql.errors import TrainingError
from text2sql.training.distributed import processes, share_of_step
from text2sql.training.frozen import FoldedLinear
from text2sql.training.model import resolve_precision, training_device
from text2sql.training.muon import Muon

MUON = "muon"
"""Muon, which the Trainer has no name for."""
MUON_STEPS = 5
"""Newton-Schulz iterations that bring an update near an orthogonal matrix, as its author takes them."""


def choose_optimizer(name: str, cuda: bool) -> str:
    """The Trainer's name of the optimizer, or MUON.

    Raises:
        TrainingError: unknown, or paged without CUDA, whose unified memory it pages to.
    """
    if name == "auto":
        return "paged_adamw_32bit" if cuda else "adamw_torch_fused"
    known = [MUON, *(choice.value for choice in OptimizerNames)]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or ["auto"]
        raise TrainingError(f"training.optim {name!r} is unknown; did you mean {' or '.join(near)}?")
    if name.startswith("paged_") and not cuda:
        raise TrainingError(
            f"training.optim {name} needs a CUDA GPU and none is visible; set it to auto or adamw_torch"
        )
    return name


def muon(training: TrainingSection) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Muon's class and arguments; a learning rate that suits AdamW suits it."""
    how = {
        "lr": training.learning_rate,
        "weight_decay": training.weight_decay,
        "momentum": 0.95,
        "ns_steps": MUON_STEPS,
    }
    return Muon, how


def trainer_arguments(
    settings: Settings, optimizer: str, checkpointing: bool, folder: Path, validate: bool
) -> SFTConfig:
    """Our settings in TRL's words."""
    training = settings.training
    device = training_device()
    precision = resolve_precision(training.precision, device)
    rows, passes = share_of_step(training, processes())
    arguments = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=training.num_train_epochs,
        max_steps=training.max_steps or -1,
        learning_rate=training.learning_rate,
        per_device_train_batch_size=rows,
        per_device_eval_batch_size=training.per_device_eval_batch_size,
        gradient_accumulation_steps=passes,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        lr_scheduler_type=training.lr_scheduler_type,
        warmup_steps=min(training.warmup_ratio, 0.999),  # 1.0 would be read as one step
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
        packing=training.packing,
        packing_strategy="bfd",
        eval_packing=False if not training.packing else None,
        max_length=training.max_length if training.packing else None,
        completion_only_loss=True,
        optim="adamw_torch" if optimizer == MUON else optimizer,  # Muon is handed to the trainer itself
        logging_steps=training.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if validate else "no",
        eval_steps=training.eval_steps if validate else None,
        prediction_loss_only=True,
        save_strategy="steps",
        save_steps=training.save_steps,
        save_total_limit=None,  # the store deletes old checkpoints, once the new one is sealed
        seed=training.seed,
        data_seed=training.seed,
        include_num_input_tokens_seen="non_padding",
        dataloader_pin_memory=device.type == "cuda",
        use_cpu=device.type == "cpu",  # or it refuses bf16 there
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        report_to=["wandb"] if settings.wandb.enabled else "none",
        run_name=settings.wandb.run_name,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # noqa: SLF001 - one process, one GPU; torchrun starts more
    return arguments


def describe(trainer: Any, settings: Settings, copied: int, activations: str) -> str:
    """Lines of at most 100 characters or so on how this run trains, and what was chosen for its device.

    `copied` is that of dequantize_once; `activations` says whether they are kept, and why.
    """
    arguments, training, device = trainer.args, settings.training, training_device()
    where = f"{torch.get_num_threads()} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)
    if arguments.world_size > 1:
        where = f"{arguments.world_size} processes, {where} each"
    weights = f"{settings.model.quantization_bits}-bit weights"
    if copied:
        weights += f" de-quantised once ({copied / 2**20:,.0f} MiB)"
    layers = [layer for layer in trainer.model.modules() if isinstance(layer, LoraLayer)]
    folded = sum(isinstance(layer, FoldedLinear) for layer in layers)
    optimizer = MUON if training.optim == MUON else str(arguments.optim.value)
    kernels = ", Liger's kernels" if training.use_liger_kernel else ""
    lines = [
        f"training on {device.type} ({where}), {resolve_precision(training.precision, device)}, {optimizer}{kernels}",
        f"{weights}, LoRA folded into {folded} of {len(layers)} layers",
        _batches(trainer, training),
        activations,
    ]
    return "\n".join(lines)


def _batches(trainer: Any, training: TrainingSection) -> str:
    if training.packing:
        return f"packed to {training.max_length} tokens ({trainer.model.config._attn_implementation})"  # noqa: SLF001
    order = "rows of like length together" if training.group_by_length else "rows in any order"
    return f"{order}, at most {trainer.tokens:,} tokens a pass" if trainer.tokens else order
