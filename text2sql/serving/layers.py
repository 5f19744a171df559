"""Decoder layers of Llama's kind in a third of the operations, for models served in 32 bits on a CPU.

There a good part of a pass over the few tokens of a batch goes between the operations: written as transformers writes
it, a layer takes some sixty. Here what reads the same input is one matrix product (queries, keys and values; gate and
up), a product adds to the residual stream itself, and weights lie as (inputs, outputs), which a product of few rows
reads a quarter to a half faster.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as everybody calls it
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from text2sql.serving.slots import SlotCache

KINDS = (LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer)
"""RMSNorm before attention and before a gated MLP, rotary positions, and a residual stream beside both."""


def fuse_layers(model: PreTrainedModel) -> int:
    """Let the layers that can be written so run so; the weights stay the model's own.

    Returns:
        How many they are; 0 where the arithmetic has 16 bits: there the order of rounding shows in the answers.
    """
    layers = [layer for layer in model.modules() if type(layer) in KINDS and _plain(layer)]
    for layer in layers:
        layer.forward = FusedLayer(layer)
    return len(layers)


def _plain(layer: nn.Module) -> bool:
    """Whether its products are those of plain 32-bit matrices, and nobody looks at the modules that are skipped."""
    attention: Any = layer.self_attn
    mlp: Any = layer.mlp
    inputs = [attention.q_proj, attention.k_proj, attention.v_proj]
    products = [*inputs, attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    return (
        all(type(product) is nn.Linear for product in products)
        and all(weight.dtype == torch.float32 and weight.device.type == "cpu" for weight in layer.parameters())
        and not any(module._forward_hooks or module._forward_pre_hooks for module in layer.modules())  # noqa: SLF001
        and len({product.bias is None for product in inputs}) == 1
        and all(product.bias is None for product in products[3:])
        and isinstance(mlp.act_fn, SiLUActivation)
    )


class FusedLayer:
    """In place of a decoder layer's `forward`: hidden states (1, tokens, hidden size), which it changes in place."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._index, self._scale, self._head = attention.layer_idx, attention.scaling, attention.head_dim
        self._queries = attention.q_proj.out_features // self._head
        self._turned = self._queries + attention.k_proj.out_features // self._head
        self._before, self._between = layer.input_layernorm, layer.post_attention_layernorm
        self._inputs, self._bias = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self._output, _ = _joined(attention.o_proj)
        self._gate_up, _ = _joined(mlp.gate_proj, mlp.up_proj)
        self._down, _ = _joined(mlp.down_proj)

    def __call__(
        self,
        hidden_states: torch.Tensor,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        slots: SlotCache,
        **_: Any,
    ) -> torch.Tensor:
        line = hidden_states[0]
        heads = _norm(line, self._before) @ self._inputs
        if self._bias is not None:
            heads += self._bias
        heads = heads.view(len(line), -1, self._head)
        turned = _turn(heads[:, : self._turned], *position_embeddings)
        query, key, value = turned[:, : self._queries], turned[:, self._queries :], heads[:, self._turned :]
        found = slots.attend(self._index, query, key, value, self._scale)
        line.addmm_(found.flatten(1), self._output)
        gate, up = (_norm(line, self._between) @ self._gate_up).chunk(2, dim=1)
        line.addmm_(F.silu(gate).mul_(up), self._down)
        return hidden_states


def _joined(*products: nn.Linear) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One matrix (inputs, outputs) and one bias for products of the same input.

    Theirs become views of it, so that nothing is held twice; such a model is not for saving.
    """
    first: Any = products[0]
    outputs = sum(product.out_features for product in products)
    weight = first.weight.new_empty((first.in_features, outputs), requires_grad=False)
    bias = torch.cat([product.bias.detach() for product in products]) if first.bias is not None else None
    at = 0
    for product in products:
        part = slice(at, at + product.out_features)
        weight[:, part] = product.weight.detach().t()
        product.weight = nn.Parameter(weight[:, part].t(), requires_grad=False)
        if bias is not None:
            product.bias = nn.Parameter(bias[part], requires_grad=False)
        at = part.stop
    return weight, bias


def _norm(line: torch.Tensor, norm: Any) -> torch.Tensor:
    return F.rms_norm(line, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _turn(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions (Su et al. 2021) for heads (tokens, heads, head size); cos and sin (1, tokens, head size)."""
    half = heads.shape[-1] // 2
    cos, sin = cos[0, :, None], sin[0, :, None, :half]
    turned = heads * cos
    turned[..., :half].addcmul_(heads[..., half:], sin, value=-1)
    turned[..., half:].addcmul_(heads[..., :half], sin)
    return turned
