"""De-quantised once and multiplied once: the same numbers and gradients as peft's own path over 4-bit weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch

from tests.training_fixtures import tiny_settings
from text2sql.config import Settings
from text2sql.training import frozen
from text2sql.training.finetune import with_adapter
from text2sql.training.frozen import FoldedLinear, dequantize_once, fold_adapters
from text2sql.training.model import load_base, quiet
from text2sql.training.trainer import split_batch


def adapted(settings: Settings, once: str, fold: bool) -> tuple[Any, int, tuple[int, int]]:
    """A model with LoRA whose B is not zero, so that both matrices have gradients."""
    base = load_base(settings.model, settings.training)
    copied = dequantize_once(base, settings.model.model_copy(update={"dequantize": once}), base.dtype)
    with quiet():
        model = with_adapter(base, settings.lora, settings.training)
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model, copied, fold_adapters(model) if fold else (0, 0)


def loss_and_gradients(model: Any) -> tuple[float, torch.Tensor]:
    ids = torch.arange(40).reshape(2, 20)
    loss = model.train()(input_ids=ids, labels=ids).loss
    loss.backward()
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.requires_grad]
    return float(loss.detach()), torch.cat(gradients)


def test_the_same_loss_and_gradients(tiny_model: Path, tmp_path: Path) -> None:
    settings = tiny_settings(tiny_model, tmp_path, lora={"r": 32, "lora_alpha": 64, "lora_dropout": 0.0})
    plain, none, _ = adapted(settings, "always", fold=True)
    fast, copied, (folded, layers) = adapted(settings, "once", fold=True)
    assert none == 0
    assert not any(isinstance(module, FoldedLinear) for module in plain.modules())
    assert copied == 4 * 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    assert not any(isinstance(module, bnb.nn.Linear4bit) for module in fast.modules())
    assert folded == layers == 14
    (loss, gradient), (fast_loss, fast_gradient) = loss_and_gradients(plain), loss_and_gradients(fast)
    assert fast_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(fast_gradient, gradient, rtol=1e-3, atol=1e-5)


def test_without_its_adapter_the_base_answers(tiny_model: Path, tmp_path: Path) -> None:
    settings = tiny_settings(tiny_model, tmp_path, lora={"r": 32, "lora_dropout": 0.0})
    model, _, _ = adapted(settings, "once", fold=True)
    ids = torch.arange(20)[None]
    with torch.no_grad(), model.disable_adapter():
        bare = model(input_ids=ids).logits
        expected = load_base(settings.model, settings.training)(input_ids=ids).logits
    torch.testing.assert_close(bare, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("lora", "training"),
    [({"r": 4}, {}), ({"lora_dropout": 0.1}, {}), ({}, {"precision": "bf16"})],
    ids=["small rank: not cheaper", "dropout: not the same", "bf16: not the same"],
)
def test_where_layers_are_not_folded(
    tiny_model: Path, tmp_path: Path, lora: dict[str, Any], training: dict[str, Any]
) -> None:
    changes = {"r": 32, "lora_dropout": 0.0, **lora}
    model, copied, (folded, layers) = adapted(
        tiny_settings(tiny_model, tmp_path, lora=changes, training=training), "once", True
    )
    assert copied > 0
    assert (folded, layers) == (0, 14)
    assert torch.isfinite(loss_and_gradients(model)[1]).all()


def test_a_copy_that_does_not_fit_is_not_made(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(tiny_model, tmp_path)
    monkeypatch.setattr(frozen, "free_memory", lambda: 400_000)
    model, copied, _ = adapted(settings, "auto", fold=False)
    assert copied == 0
    assert any(isinstance(module, bnb.nn.Linear4bit) for module in model.modules())


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "CGROUP_LIMIT", tmp_path / "memory.max")
    (tmp_path / "memory.max").write_text("max\n")
    assert frozen.free_memory() > 2**20
    (tmp_path / "memory.max").write_text("4096\n")
    assert frozen.free_memory() == 0


def test_a_batch_is_taken_in_parts() -> None:
    """No part above the limit, rows of like length together, nothing lost, no column of padding alone."""
    lengths = [3, 9, 2, 20, 8, 4]
    width = max(lengths)
    mask = torch.tensor([[1] * n + [0] * (width - n) for n in lengths])
    ids = (torch.arange(len(lengths) * width).reshape(len(lengths), width) + 1) * mask
    parts = split_batch({"input_ids": ids, "attention_mask": mask, "labels": ids}, 18)
    assert [tuple(part["input_ids"].shape) for part in parts] == [(1, 20), (2, 9), (3, 4)]
    rows = [tuple(row[row > 0].tolist()) for part in parts for row in part["input_ids"]]
    assert sorted(rows) == sorted(tuple(row[row > 0].tolist()) for row in ids)
    assert split_batch({"input_ids": ids, "attention_mask": mask}, 10**6)[0]["input_ids"].shape == ids.shape
