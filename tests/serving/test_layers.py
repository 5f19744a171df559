"""Layers in few operations compute what transformers' own do."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM
from transformers.models.llama import LlamaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.qwen2 import Qwen2Config

from text2sql.serving.batch import Batch
from text2sql.serving.engine import Options
from text2sql.serving.layers import fuse_layers
from text2sql.serving.sequences import Sequence

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
KINDS = {
    "mistral": lambda **more: MistralForCausalLM(MistralConfig(**{**SIZES, "head_dim": 16} | more)),
    "llama": lambda **more: LlamaForCausalLM(LlamaConfig(**SIZES | more)),
    "llama, positions stretched": lambda **more: LlamaForCausalLM(
        LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}, **more)
    ),
    "qwen, with biases": lambda **more: Qwen2ForCausalLM(Qwen2Config(**SIZES | more)),
}


@pytest.fixture(params=list(KINDS))
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(7)
    found = KINDS[request.param]().eval()
    for name, weights in found.named_parameters():
        if name.endswith(("bias", "norm.weight")):  # zeros and ones would hide that one is left out
            torch.nn.init.uniform_(weights, 0.5, 1.5)
    return found


def rows_of(draw: random.Random) -> list[Sequence]:
    """Prompts long and short, two of them equal, and one beginning like another."""
    prompts = [[draw.randrange(97) for _ in range(length)] for length in (40, 3, 1, 25, 12)]
    prompts += [prompts[0], prompts[0][:32] + prompts[3]]
    return [Sequence(prompt, Options(max_new_tokens=50), owner=None) for prompt in prompts]


@pytest.mark.parametrize("drafts", [0, 4], ids=["", "guessing"])
@torch.inference_mode()
def test_a_batch_has_the_logits_of_each_row_alone(model: Any, drafts: int):
    """Rows grow by given tokens; one joins late, on a beginning that is known, and one leaves in the middle."""
    rows = rows_of(random.Random(1))
    grown = {row: [*row.prompt, *(random.Random(at).randrange(97) for _ in range(16))] for at, row in enumerate(rows)}
    alone = {row: model(input_ids=torch.tensor([ids])).logits[0] for row, ids in grown.items()}
    batch = Batch(model, 4096, prefix_tokens=64, drafts=drafts)
    assert type(batch.model.model.layers[0].forward).__name__ == "FusedLayer"
    for row in rows[:-1]:
        batch.join(row)
    read_together = 0
    for step in range(8):
        if step == 1:
            batch.join(rows[-1])
            assert rows[-1].read == 32
        if step == 4:
            batch.remove(rows[3])
        turns, logits = batch.step()
        for turn in turns:
            row = turn.sequence
            ids = grown[row]
            right = next(
                (at for at, draft in enumerate(turn.drafts) if draft != ids[row.length + at]), len(turn.drafts)
            )
            expected = alone[row][row.length - 1 : row.length + right]
            torch.testing.assert_close(logits[turn.logits][: right + 1], expected, rtol=1e-4, atol=1e-5)
            read_together += right
            row.read = turn.read
            if not row.tokens:
                batch.remember(row)
            row.tokens.append(ids[row.length])
            batch._drafts.learn(None, ids[: row.length + 3])  # so that some guesses are right
    assert (read_together > 0) == (drafts > 0)


def test_the_weights_stay_the_models_own(model: Any):
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    memory = {weights.untyped_storage().data_ptr() for weights in model.parameters()}
    count = len(memory)
    assert fuse_layers(model) == 3
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], weights) for name, weights in before.items())
    pieces = [weights.untyped_storage() for weights in model.parameters()]
    storages = {piece.data_ptr(): piece.nbytes() for piece in pieces}
    assert len(storages) < count  # queries, keys and values lie in one piece
    assert sum(storages.values()) == sum(weights.nbytes for weights in model.parameters())


@pytest.mark.parametrize(
    "kind",
    [
        lambda: KINDS["llama"]().bfloat16(),  # whose rounding shows
        lambda: KINDS["llama"](attention_bias=True),
        lambda: KINDS["llama"](mlp_bias=True),
        lambda: KINDS["mistral"](hidden_act="gelu"),
        lambda: GPT2LMHeadModel(GPT2Config(n_embd=48, n_layer=2, n_head=4, vocab_size=97)),
    ],
    ids=["16 bits", "a bias behind attention", "a bias in the MLP", "another activation", "another kind"],
)
def test_what_cannot_be_written_so_stays(kind: Any):
    model = kind()
    before = [type(module.forward) for module in model.modules()]
    assert fuse_layers(model) == 0
    assert [type(module.forward) for module in model.modules()] == before


def test_a_layer_that_somebody_looks_into_stays():
    model = KINDS["mistral"]()
    model.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    assert fuse_layers(model) == 2


def test_a_layer_of_two_types_stays():
    model = KINDS["mistral"]()
    model.model.layers[1].input_layernorm.bfloat16()
    assert fuse_layers(model) == 2


def test_an_adapter_that_is_not_folded_in_stays():
    from peft import LoraConfig, inject_adapter_in_model

    model: Any = inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), KINDS["mistral"]())
    assert fuse_layers(model) == 0
