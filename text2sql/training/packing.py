"""Packing: several rows in one sequence, and a look at whether this model really keeps them apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from text2sql.errors import TrainingError

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Largest difference of a logit, as a share of the largest logit, that rounding alone explains."""


def pack(rows: Sequence[Sequence[int]], device: torch.device | None = None) -> dict[str, torch.Tensor]:
    """Rows one after another as a model takes them, positions beginning anew with each; shape (1, tokens).

    There is no attention mask: where there is one, transformers reads the rows as one text.
    """
    ids = torch.tensor([[token for row in rows for token in row]], device=device)
    positions = torch.cat([torch.arange(len(row), device=device) for row in rows])[None]
    return {"input_ids": ids, "position_ids": positions}


@torch.no_grad()
def check_packing(model: Any, rows: Sequence[Sequence[int]]) -> None:
    """Hold the logits of packed rows against those of the last one alone, which a leak would change.

    Raises:
        TrainingError: they differ by more than rounding; with this model and attention, rows would see each other.
    """
    was = model.training
    model.eval()
    device = next(model.parameters()).device
    with torch.autocast(device.type, enabled=False):
        packed = model(**pack(rows, device), use_cache=False).logits[0, -len(rows[-1]) :]
        alone = model(**pack(rows[-1:], device), use_cache=False).logits[0]
    model.train(was)
    difference = float((packed - alone).abs().max() / alone.abs().max().clamp_min(1e-6))
    if not difference <= TOLERANCE.get(packed.dtype, TOLERANCE[torch.float32]):
        attention = model.config._attn_implementation  # noqa: SLF001 - its only name
        raise TrainingError(
            f"packed rows see each other: with attention {attention!r}, logits of a row change by {difference:.1%} "
            "when others stand before it; set training.packing to false"
        )
