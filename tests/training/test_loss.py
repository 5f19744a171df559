"""The loss in tiles: the numbers of the plain one, and never more logits in memory than a tile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training_fixtures import splits, tiny_settings
from text2sql.training import loss
from text2sql.training.loss import summed_loss, tokens_a_tile
from text2sql.training.tokens import IGNORED

VOCABULARY, WIDTH = 131_072, 16


class Logits(TorchDispatchMode):
    """Tokens of the largest tensor that is made with a side as long as the vocabulary; views of others make nothing."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.tokens = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and self.vocabulary in made.shape:
            places = {given.untyped_storage().data_ptr() for given in args if isinstance(given, torch.Tensor)}
            if made.untyped_storage().data_ptr() not in places:
                self.tokens = max(self.tokens, made.numel() // self.vocabulary)
        return made


def problem(tokens: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> tuple[Any, torch.nn.Linear, Any]:
    torch.manual_seed(0)
    head = torch.nn.Linear(WIDTH, vocabulary, bias=False, dtype=dtype).requires_grad_(False)
    return torch.randn(tokens, WIDTH, dtype=dtype, requires_grad=True), head, torch.randint(vocabulary, (tokens,))


def plain_loss(hidden: torch.Tensor, head: torch.nn.Linear, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(head(hidden).float(), targets, reduction="sum")


@pytest.mark.parametrize("tokens", [0, 1, 7, 64], ids="{} tokens".format)
def test_loss_and_gradient_are_the_plain_ones(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "TILE", 1000)  # 10 tokens at a time: one tile in part, one whole, seven
    hidden, head, targets = problem(tokens, 100)
    found = {}
    for how in (plain_loss, summed_loss):
        hidden.grad = None
        total = how(3 * hidden, head, targets)
        (total / 7).backward()
        found[how] = (total.detach(), hidden.grad)
    torch.testing.assert_close(found[summed_loss], found[plain_loss])


def test_under_autocast_it_is_as_exact_as_the_plain_one() -> None:
    hidden, head, targets = problem(64, 1000)
    plain_loss(hidden, head, targets).backward()
    exact, hidden.grad, off = hidden.grad, None, []
    for how in (plain_loss, summed_loss):
        with torch.autocast("cpu", torch.bfloat16):
            total = how(hidden, head, targets)
        total.backward()
        off.append(float((hidden.grad - exact).norm() / exact.norm()))
        hidden.grad = None
    assert off[1] < 1.1 * off[0] < 0.02


def test_no_more_logits_than_a_tile_are_ever_in_memory() -> None:
    """Forward and backward of 128 tokens over 131,072 words: 2^24 logits in all, 2^22 at a time."""
    hidden, head, targets = problem(128, VOCABULARY)
    most = {}
    for how in (summed_loss, plain_loss):
        with Logits(VOCABULARY) as made:
            how(hidden, head, targets).backward()
        most[how] = made.tokens
    assert most[plain_loss] == 128, "the measure sees logits that stand whole"
    assert most[summed_loss] == tokens_a_tile(VOCABULARY) == 32
    assert 32 * VOCABULARY == loss.TILE


def test_for_the_backward_pass_one_gradient_is_kept_and_no_logits() -> None:
    hidden, head, targets = problem(256, 4096)
    kept: list[tuple[int, ...]] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        summed_loss(hidden, head, targets)
    assert kept == [(256, WIDTH)]


def test_a_training_step_never_has_the_logits_whole(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer's own loss, in training and in validation, with tiles of four tokens."""
    from text2sql.training.finetune import finetune
    from text2sql.training.trainer import AdapterTrainer

    seen: list[tuple[int, int]] = []
    compute_loss = AdapterTrainer.compute_loss

    def watched(self: AdapterTrainer, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        vocabulary = model.get_base_model().config.vocab_size
        monkeypatch.setattr(loss, "TILE", 4 * vocabulary)
        with Logits(vocabulary) as made:
            found = compute_loss(self, model, inputs, *rest, **more)
        seen.append((made.tokens, int((inputs["labels"][:, 1:] != IGNORED).sum())))
        return found

    monkeypatch.setattr(AdapterTrainer, "compute_loss", watched)
    settings = tiny_settings(tiny_model, tmp_path, training={"max_steps": 1, "eval_steps": 1})
    finetune(splits(), settings, output=tmp_path / "adapter")
    assert len(seen) > 2
    assert {tokens for tokens, _ in seen} == {4}
    assert min(scored for _, scored in seen) > 4 * 4
