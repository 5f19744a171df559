"""The frozen weights under an adapter: as numbers instead of 4 bits where memory allows, and multiplied once.

Both change the speed and not the numbers. On a CPU 4-bit weights are de-quantised twice for every layer of every pass;
the copy holds the very values that training would see. A LoRA layer multiplies its input three times (by W, by A, by
B); where the rank is large beside the layer, it is cheaper to add B·A to W and to multiply once.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import psutil
import torch
from bitsandbytes.nn.modules import Linear4bit
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.utils.integrations import dequantize_module_weight
from torch import nn

from text2sql.config import ModelSection

SHARE = 0.25
"""`auto` keeps the copy where it takes at most this share of the memory that is free."""
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def dequantize_once(model: nn.Module, section: ModelSection, dtype: torch.dtype) -> int:
    """Replace 4-bit layers by plain ones of the same values, if `model.dequantize` says so; bytes of the copy, or 0."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Linear4bit)}
    size = sum(layer.in_features * layer.out_features for layer in layers.values()) * dtype.itemsize
    if section.dequantize == "always" or not layers:
        return 0
    on_cpu = all(layer.weight.device.type == "cpu" for layer in layers.values())
    if section.dequantize == "auto" and not (on_cpu and size <= SHARE * free_memory()):
        return 0
    for name, layer in layers.items():
        plain: Any = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(dequantize_module_weight(layer).detach().to(dtype), requires_grad=False)
        plain.bias = layer.bias
        model.set_submodule(name, plain)
    return size


def free_memory() -> int:
    """Bytes of main memory that this process may still take, by the machine and by the limit of its container."""
    free = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):  # no limit is written as "max"
        free = min(free, int(CGROUP_LIMIT.read_text()) - psutil.Process().memory_info().rss)
    return max(free, 0)


class FoldedLinear(LoraLinear):
    """A LoRA layer that adds its product to the frozen weight and multiplies once; gradients flow through the sum."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.disable_adapters or self.merged or kwargs.get("adapter_names") or len(self.active_adapters) != 1:
            return super().forward(x, *args, **kwargs)
        [name] = self.active_adapters
        base: Any = self.get_base_layer()
        a: Any = self.lora_A[name].weight
        b: Any = self.lora_B[name].weight
        weight = torch.addmm(base.weight, b, a, alpha=float(self.scaling[name]))
        return nn.functional.linear(x, weight, base.bias)


def fold_adapters(model: nn.Module) -> tuple[int, int]:
    """Let LoRA layers multiply once where that is exact and cheaper; how many do, and how many there are.

    Exact: no dropout between x and A, no other variant of LoRA, and fp32 throughout, since a sum in bf16 would swallow
    small products. Cheaper: forward and backward of a token take 2·in·out + 3·r·(in + out) multiplications apart, and
    3·in·out folded.
    """
    layers: list[Any] = [module for module in model.modules() if isinstance(module, LoraLayer)]
    folded = 0
    for layer in layers:
        if type(layer) is LoraLinear and _exact(layer) and _pays(layer):
            layer.__class__ = FoldedLinear
            folded += 1
    return folded, len(layers)


def _exact(layer: Any) -> bool:
    names: list[str] = list(layer.lora_A)
    weights = [layer.get_base_layer().weight, *(layer.lora_A[n].weight for n in names)]
    plain = not layer.lora_variant and not layer.fan_in_fan_out
    unbiased = all(layer.lora_B[n].bias is None for n in names)
    undropped = all(isinstance(layer.lora_dropout[n], nn.Identity) for n in names)
    return plain and unbiased and undropped and all(w.dtype == torch.float32 for w in weights)


def _pays(layer: Any) -> bool:
    return folding_pays(layer.in_features, layer.out_features, max(layer.r.values()))


def folding_pays(inputs: int, outputs: int, rank: int) -> bool:
    """Whether a LoRA layer is cheaper multiplied once."""
    return inputs * outputs < 3 * rank * (inputs + outputs)
