"""Peak memory of a training step, part by part, in bytes.

Sources: weights and quantisation constants after Dettmers et al. 2023 (QLoRA, section 3: 4 bits a weight, a constant
for each 64, and with double quantisation 8 bits for it and 32 bits for each 256 of these); what a layer keeps for its
backward pass after Korthikanti et al. 2022 (Reducing activation recomputation, section 4), counted again for frozen
weights, which need no inputs kept, for LoRA, which does, and for RMSNorm, gated feed-forward parts and
scaled-dot-product attention as transformers writes them. benchmarks/memory.py holds the sum against measured peaks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from text2sql.training.planner.shape import Linear, Shape

FLOAT = 4
BLOCK, SECOND_BLOCK = 64, 256
"""Weights a quantisation constant, and constants a constant of theirs (bitsandbytes' defaults, as in the paper)."""
TILE_TOKENS, TILE_WORDS = 4096, 32768
"""TRL's fused loss scores this many tokens against this many words of the vocabulary at a time."""
EIGHT_BIT_BLOCK = 256
"""Values of an 8-bit optimizer's state that share a constant."""

Attention = Literal["sdpa", "flash_attention_2", "eager"]
Loss = Literal["full", "completion", "chunked"]


@dataclass(frozen=True)
class MicroBatch:
    """The largest that a device holds at a time, padding included."""

    rows: int
    length: int
    scored: int
    """Tokens with loss."""
    masked: bool = True
    """Whether attention gets a mask: rows differ in length, or are packed without FlashAttention."""

    @property
    def tokens(self) -> int:
        """Padding included."""
        return self.rows * self.length


@dataclass(frozen=True)
class Method:
    """How it is trained, as far as memory depends on it."""

    bits: Literal[4, 8, 16]
    """Of a frozen weight while it is trained over: 16 too where 4 bits were de-quantised once."""
    nested: bool
    width: Literal[2, 4]
    """Bytes of an activation and of a weight that is not quantised."""
    rank: int
    targets: tuple[str, ...]
    dropout: float
    checkpointing: bool
    attention: Attention
    loss: Loss
    """full: logits of every token at once; completion: of those with loss, in our tiles; chunked: in TRL's."""
    optimizer: str
    cuda: bool

    def folds(self, linear: Linear) -> bool:
        """Whether LoRA is multiplied once with the frozen weight (training/frozen.py), which keeps their sum."""
        if self.width != FLOAT or self.bits != 16 or self.dropout or linear.name not in self.targets:
            return False
        from text2sql.training.frozen import folding_pays

        return folding_pays(linear.inputs, linear.outputs, self.rank)


@dataclass(frozen=True)
class Memory:
    """Bytes by part at the moment of the peak; their sum is the peak."""

    parts: dict[str, float]

    @property
    def total(self) -> float:
        """Bytes at the peak."""
        return sum(self.parts.values())

    @property
    def activation_like(self) -> float:
        """What grows with the micro-batch."""
        return sum(self.parts[name] for name in (ACTIVATIONS, LOGITS, WORKING))


WEIGHTS, UNQUANTISED = "weights, quantised", "weights, not quantised"
ADAPTER, GRADIENTS, OPTIMIZER = "adapter", "its gradients", "optimizer"
ACTIVATIONS, LOGITS, WORKING = "activations", "logits and loss", "working memory"


def estimate(shape: Shape, method: Method, batch: MicroBatch) -> Memory:
    """Memory of one device without what its driver and allocator take."""
    adapter = shape.adapter_parameters(method.rank, method.targets)
    quantised, plain = weights(shape, method)
    kept, layer = activations(shape, method, batch)
    logits = loss_memory(shape, method, batch)
    # When it gets to the layers, the logits are gone, and with them what the last norm kept.
    backward = layer + backward_work(shape, method, batch) - _after_layers(shape, method, batch)
    step = optimizer_work(shape, method) - kept  # … and when the optimizer steps, all that was kept
    return Memory(
        {
            WEIGHTS: quantised,
            UNQUANTISED: plain,
            ADAPTER: FLOAT * adapter,
            GRADIENTS: FLOAT * adapter,
            OPTIMIZER: optimizer_state(method.optimizer) * adapter,
            ACTIVATIONS: kept,
            LOGITS: logits,
            WORKING: max(0.0, backward - logits, step - logits),
        }
    )


def weights(shape: Shape, method: Method) -> tuple[float, float]:
    """Bytes of the linear layers where they are quantised, and of everything else: embeddings, head, norms."""
    inside = shape.linear_parameters
    if method.bits == 16:
        return 0.0, float(method.width * shape.parameters)
    rest = float(method.width * (shape.parameters - inside))
    if method.bits == 8:
        return inside + FLOAT * sum(linear.outputs * linear.count for linear in shape.linears), rest
    constants = (1 + FLOAT / SECOND_BLOCK) / BLOCK if method.nested else FLOAT / BLOCK
    return inside * (0.5 + constants), rest


def optimizer_state(name: str) -> float:
    """Bytes a trained parameter; two moments in fp32 unless the name says otherwise."""
    if "8bit" in name:
        return 2 * (1 + FLOAT / EIGHT_BIT_BLOCK)
    if "adafactor" in name:
        return 0.0  # a row and a column a matrix
    return FLOAT if name.startswith(("sgd", "lion", "rmsprop", "adagrad", "muon")) else 2 * FLOAT


def optimizer_work(shape: Shape, method: Method) -> float:
    """What a step needs beside the state: Muon's stack of all matrices of a shape, and its iteration over them."""
    if method.optimizer != "muon":
        return 0.0
    sides: Counter[int] = Counter()
    for part in shape.targeted(method.targets):
        sides[part.inputs] += part.count  # A
        sides[part.outputs] += part.count  # B
    inside = 2 if method.cuda else FLOAT
    return max(
        count * (method.rank * side * (FLOAT + 2 * inside) + 2 * min(method.rank, side) ** 2 * inside)
        for side, count in sides.items()
    )


def activations(shape: Shape, method: Method, batch: MicroBatch) -> tuple[float, float]:
    """Bytes kept from the forward pass, and what one layer adds to it while it is computed again (checkpointing)."""
    sums = FLOAT * sum(part.parameters for part in shape.linears if method.folds(part)) / shape.layers
    layer = batch.tokens * layer_bytes(shape, method, batch) + sums
    around = _after_layers(shape, method, batch)
    if batch.masked:
        around += batch.tokens * batch.length  # the mask itself, a byte a pair
    if method.checkpointing:
        return shape.layers * batch.tokens * shape.hidden * method.width + around, layer
    # Nothing before the first adapter needs a gradient: the first norm keeps nothing.
    return shape.layers * layer - FLOAT * batch.tokens * shape.hidden + around, 0.0


def _after_layers(shape: Shape, method: Method, batch: MicroBatch) -> float:
    """The last norm's input in fp32, and its output."""
    return float(batch.tokens * shape.hidden * (FLOAT + method.width))


def layer_bytes(shape: Shape, method: Method, batch: MicroBatch) -> float:
    """What a token leaves in one layer for the backward pass."""
    width, hidden, wide = method.width, shape.hidden, shape.heads * shape.head_size
    norms = 2 * FLOAT * (hidden + 1)  # each norm's input in fp32, and its scale
    inner = shape.intermediate * width * (3 if shape.gated else 1)  # both branches and the activated one
    return norms + _attention_bytes(shape, method, batch, wide) + inner + _adapter_bytes(shape, method)


def _attention_bytes(shape: Shape, method: Method, batch: MicroBatch, wide: int) -> float:
    narrow = shape.key_value_heads * shape.head_size
    shared = method.attention == "flash_attention_2" or not batch.masked  # grouped heads are not written out
    kept = method.width * (2 * wide + 2 * (narrow if shared else wide))  # query and output, key and value
    if method.attention == "eager":
        return kept + shape.heads * batch.length * (FLOAT + method.width)  # softmax in fp32, and rounded
    statistics = FLOAT * shape.heads
    mask = method.width * batch.length if batch.masked and method.attention == "sdpa" else 0
    return kept + statistics + mask  # SDPA turns a mask of booleans into numbers, in each layer


def _adapter_bytes(shape: Shape, method: Method) -> float:
    """Inputs of LoRA's two matrices. Without dropout, layers that read the same tensor share it.

    Where peft widens the input to fp32, autocast makes a 16-bit copy for each layer.
    """
    targets = shape.targeted(method.targets)
    a_layer = {part.name: part.count / shape.layers for part in targets}
    low_rank = method.rank * method.width * sum(a_layer[part.name] for part in targets if not method.folds(part))
    copies = _widened(method)
    if method.dropout:
        noise = 1 if method.cuda else (FLOAT if copies else method.width)
        own = method.width * sum(_shared_inputs(shape.linears)) if method.bits == 8 else 0  # LLM.int8() keeps them too
        return low_rank + own + sum(part.inputs * a_layer[part.name] * (method.width + noise) for part in targets)
    if copies:
        return low_rank + sum(part.inputs * a_layer[part.name] * method.width for part in targets)
    return low_rank + method.width * sum(_shared_inputs(targets))


def _widened(method: Method) -> bool:
    """Whether peft gives an adapter its input in fp32: beside quantised layers only without autocast on CUDA."""
    return method.width < FLOAT and (method.bits == 16 or not method.cuda)


def _shared_inputs(targets: Sequence[Linear]) -> list[int]:
    """Widths of the distinct tensors that the targets read; the output of attention is kept by attention itself."""
    names = {part.name: part.inputs for part in targets}
    groups = (("q_proj", "k_proj", "v_proj", "qkv_proj"), ("gate_proj", "up_proj", "gate_up_proj", "fc1"))
    found = [next(names[name] for name in group if name in names) for group in groups if set(group) & set(names)]
    known = {name for group in groups for name in group} | {"o_proj", "out_proj", "dense"}
    return found + [inputs for name, inputs in names.items() if name not in known]


def loss_memory(shape: Shape, method: Method, batch: MicroBatch) -> float:
    """A tile of logits, and the hidden states of scored tokens with their gradient.

    Where logits stand whole: log-probabilities, their gradient and that of the logits, all in fp32, when the backward
    pass begins.
    """
    if method.loss == "full":
        return float(batch.tokens * shape.vocabulary * (3 * FLOAT + method.width))
    if method.loss == "chunked":
        tile = min(batch.scored, TILE_TOKENS) * TILE_WORDS * method.width
        return tile + batch.scored * shape.hidden * (FLOAT + method.width)
    from text2sql.training.loss import tokens_a_tile

    narrow = method.width if method.width < FLOAT else 0  # made in 16 bits, and widened
    tile = min(batch.scored, tokens_a_tile(shape.vocabulary)) * shape.vocabulary * (FLOAT + narrow)
    return float(tile + 2 * batch.scored * shape.hidden * method.width)


def backward_work(shape: Shape, method: Method, batch: MicroBatch) -> float:
    """Gradients that pass through the feed-forward part of one layer, and a layer's weights de-quantised.

    A folded layer has the gradient of the whole sum for a moment.
    """
    width = FLOAT if _widened(method) else method.width
    gradients = 2 * width * batch.tokens * (shape.intermediate + shape.hidden)
    sums = FLOAT * max((part.inputs * part.outputs for part in shape.linears if method.folds(part)), default=0)
    return gradients + sums + (method.width * shape.largest_linear if method.bits != 16 else 0)
