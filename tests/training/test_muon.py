"""Muon over stacks of matrices, beside torch's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from text2sql.training.muon import Muon, orthogonal

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def matrices() -> list[torch.nn.Parameter]:
    """A and B of two layers of one width and one of another, as LoRA has them."""
    torch.manual_seed(0)
    shapes = [(4, 24), (24, 4), (4, 24), (24, 4), (4, 40), (24, 4), (6, 6)]
    return [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_are_those_of_torch(nesterov: bool, weight_decay: float) -> None:
    ours, theirs = matrices(), matrices()
    start = copy.deepcopy(ours)
    how: dict[str, Any] = {"lr": 0.02, "momentum": 0.9, "nesterov": nesterov, "weight_decay": weight_decay}
    batched = Muon(ours, **how)
    one_by_one: Any = torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **how)
    for step in range(4):
        for i, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            if i == 5 and step == 0:
                continue  # a matrix without a gradient stays as it is
            mine.grad = torch.randn(mine.shape, generator=torch.Generator().manual_seed(100 * step + i))
            other.grad = mine.grad.clone()
        batched.step()
        one_by_one.step()
        assert torch.equal(ours[5], start[5]) == (step == 0)
    for mine, other, was in zip(ours, theirs, start, strict=True):
        moved = (other - was).norm()
        assert (mine - other).norm() < 0.1 * moved  # theirs is computed in bfloat16, which tells most in the square one


def test_singular_values_come_near_one() -> None:
    stack = (
        torch.randn(3, 8, 40, generator=torch.Generator().manual_seed(1))
        * torch.tensor([1e-6, 1.0, 1e6])[:, None, None]
    )
    found = orthogonal(stack, COEFFICIENTS, 5, 1e-7)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert torch.equal(orthogonal(torch.zeros(1, 2, 3), COEFFICIENTS, 5, 1e-7), torch.zeros(1, 2, 3))


def test_state_is_that_of_torch() -> None:
    parameters = matrices()
    optimizer = Muon(parameters, lr=0.02)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.optim.Muon(matrices(), lr=0.02).load_state_dict(optimizer.state_dict())
    assert torch.allclose(optimizer.state[parameters[0]]["momentum_buffer"], torch.full((4, 24), 0.05))
