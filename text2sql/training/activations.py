"""Whether a run keeps its activations or computes them again: by the planner's sum and the memory that is free."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace

import torch
from datasets import Dataset

from text2sql.config import Settings
from text2sql.errors import ModelError
from text2sql.training.distributed import any_asks, processes, share_of_step
from text2sql.training.frozen import free_memory
from text2sql.training.model import training_device
from text2sql.training.planner.memory import MicroBatch, estimate
from text2sql.training.planner.plan import added, fragmented, leaves_room, method_of
from text2sql.training.planner.shape import shape_of
from text2sql.training.planner.workload import fullest
from text2sql.training.tokens import IGNORED

SAMPLE = 1_000
"""Rows that the share of scored tokens in packed sequences is taken from."""


@dataclass(frozen=True)
class Activations:
    """What was chosen, and why."""

    again: bool
    """Computed again in the backward pass: gradient checkpointing."""
    reason: str

    def __str__(self) -> str:
        return f"{'checkpointing on' if self.again else 'no checkpointing'} ({self.reason})"


def choose_activations(
    settings: Settings, train: Dataset, limit: int | None, copied: bool, attention: str
) -> Activations:
    """What `training.gradient_checkpointing` means for these rows on this device, once base and adapter are there.

    All processes choose the same. A model that cannot be planned is trained the careful way.

    Args:
        limit: tokens of a pass, if there is one.
        copied: 4-bit weights were de-quantised once.
        attention: as the model was loaded with.
    """
    asked = settings.training.gradient_checkpointing
    if asked != "auto":
        return Activations(asked, "as set")
    device, flash = training_device(), attention == "flash_attention_2"
    method = method_of(settings, device, copied, flash)
    method = replace(method, attention="eager") if attention == "eager" else method
    batch = largest_batch(settings, train, limit, masked=not flash)
    try:
        memory = estimate(shape_of(settings.model), method, batch)
    except ModelError as error:
        any_asks(True)  # the others may know, and wait for this one
        return Activations(True, f"auto: {error}")
    memory = fragmented(memory) if device.type == "cuda" else memory
    free = free_on(device)
    again = any_asks(not leaves_room(memory, free))
    needs = f"to keep activations takes {_amount(added(memory))} as planned, {_amount(free)} are free"
    return Activations(again, f"auto: {needs}")


def largest_batch(settings: Settings, train: Dataset, limit: int | None, masked: bool) -> MicroBatch:
    """The largest micro-batch of tokenised rows that one process has to hold."""
    training = settings.training
    size, _ = share_of_step(training, processes())
    if training.packing:
        sample = train[:SAMPLE]
        scored = sum(label != IGNORED for row in sample["labels"] for label in row) / sum(sample["length"])
        return MicroBatch(size, training.max_length, math.ceil(size * training.max_length * scored), masked)
    lengths = train["length"][:]
    rows = fullest(lengths, size, limit)
    labels = train[rows]["labels"]
    return MicroBatch(len(rows), lengths[rows[0]], sum(label != IGNORED for row in labels for label in row))


def free_on(device: torch.device) -> float:
    """Bytes that this process may still take: of its GPU, or its share of main memory, a container's limit counted."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what loading and quantising the base has left
        return float(torch.cuda.mem_get_info(device)[0])
    return free_memory() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _amount(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{math.ceil(size / 2**20):,} MiB"
