"""Muon (Jordan et al. 2024), one matrix product for all of an adapter's matrices at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ADAMW_SIZE = 0.2
"""The root mean square of an AdamW step, which updates are scaled to (Liu et al. 2025, arXiv 2502.16982)."""


class Muon(torch.optim.Muon):
    """torch's Muon with the update of all matrices of a shape computed at once, A and B of LoRA together.

    torch takes them one by one and in bfloat16: on a CPU without units for it, a third of the training. Here bfloat16
    is for CUDA, float32 for the rest. Updates are always scaled to the size of AdamW's (torch's match_rms_adamw), whose
    learning rates suit it.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._take(group)
        return loss

    def _take(self, group: dict[str, Any]) -> None:
        parameters: list[Tensor] = []
        gradients: list[Tensor] = []
        momenta: list[Tensor] = []
        self._init_group(group, parameters, gradients, momenta)
        if not parameters:
            return
        for parameter, gradient, momentum in zip(parameters, gradients, momenta, strict=True):
            momentum.lerp_(gradient, 1 - group["momentum"])
            parameter.mul_(1 - group["lr"] * group["weight_decay"])

        def shape(i: int) -> tuple[int, ...]:
            return tuple(sorted(parameters[i].shape))

        for (_, longer), members in itertools.groupby(sorted(range(len(parameters)), key=shape), key=shape):
            places = list(members)
            stack = torch.stack([_wide(momenta[i]) for i in places])
            if group["nesterov"]:
                stack = torch.stack([_wide(gradients[i]) for i in places]).lerp_(stack, group["momentum"])
            updates = orthogonal(stack, group["ns_coefficients"], group["ns_steps"], group["eps"])
            updates *= -group["lr"] * ADAMW_SIZE * math.sqrt(longer)
            for i, update in zip(places, updates, strict=True):
                _wide(parameters[i]).add_(update)


def orthogonal(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Matrices (n, rows, columns), rows <= columns, with their singular values brought near one.

    A few steps of a quintic Newton-Schulz iteration leave them between about 0.7 and 1.2, which serves as well.
    """
    a, b, c = coefficients
    x = matrices.bfloat16() if matrices.device.type == "cuda" else matrices.float()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)  # at least the largest singular value
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)


def _wide(matrix: Tensor) -> Tensor:
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
