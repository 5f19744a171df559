"""Cross-entropy over a large vocabulary whose logits never stand in memory whole.

Logits are made for a few tokens at a time, and turned into the gradient of their hidden states at once: the head is
frozen, so nothing else is wanted of them, and nothing is computed twice (the idea of Liger's fused linear
cross-entropy, Hsu et al. 2024, arXiv 2410.10989; TRL's own tiles compute the logits again in the backward pass).
"""

from __future__ import annotations

from typing import Any

import torch

TILE = 2**22
"""Logits that are in memory at a time, 16 MiB in fp32; at least those of one token."""


def tokens_a_tile(vocabulary: int) -> int:
    """How many tokens are scored at a time."""
    return max(1, TILE // vocabulary)


def summed_loss(hidden: torch.Tensor, head: torch.nn.Linear, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of `head(hidden)` (tokens × vocabulary, never whole) against `targets`, summed over tokens.

    The head must be frozen and have no bias; gradients flow to `hidden` (tokens × width) alone.
    """
    loss: torch.Tensor = _TiledLoss.apply(hidden, head.weight, targets)  # type: ignore[no-untyped-call]
    return loss


class _TiledLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        size = tokens_a_tile(len(weight))
        for start in range(0, len(hidden), size):
            tile = slice(start, start + size)
            target = targets[tile, None]
            logits = torch.nn.functional.linear(hidden[tile], weight).float()  # in autocast's precision, as the head's
            logits -= logits.amax(1, keepdim=True)
            chosen = logits.gather(1, target)
            sums = logits.exp_().sum(1, keepdim=True)
            total += (sums.log() - chosen).sum()
            if gradient is not None:  # softmax, less one at the target
                logits /= sums
                logits.scatter_add_(1, target, torch.full_like(chosen, -1.0))
                gradient[tile] = torch.nn.functional.linear(logits.to(weight.dtype), weight.t())
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0], None, None
