"""Packed rows are answered as if each stood alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MistralConfig, MistralForCausalLM

from text2sql.errors import TrainingError
from text2sql.training.packing import check_packing, pack

VOCABULARY = 97


def model(attention: str, window: int | None) -> MistralForCausalLM:
    torch.manual_seed(3)
    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        sliding_window=window,
        initializer_range=0.3,  # large weights: a leak would show
        attn_implementation=attention,
    )
    return MistralForCausalLM(config).eval()


MODELS = {(attention, window): model(attention, window) for attention in ("sdpa", "eager") for window in (None, 8)}
ROWS = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=40), min_size=1, max_size=6)


@pytest.mark.parametrize(("attention", "window"), MODELS)
@settings(max_examples=25, deadline=None)
@given(rows=ROWS)
def test_logits_of_packed_rows_are_those_of_each_alone(
    attention: str, window: int | None, rows: list[list[int]]
) -> None:
    """Any lengths in any order, also rows longer than the sliding window, in fp32."""
    lm = MODELS[attention, window]
    with torch.no_grad():
        packed = lm(**pack(rows), use_cache=False).logits[0]
        start = 0
        for row in rows:
            alone = lm(input_ids=torch.tensor([row]), use_cache=False).logits[0]
            torch.testing.assert_close(packed[start : start + len(row)], alone, rtol=0, atol=1e-4)
            start += len(row)


def test_the_window_matters() -> None:
    """Or the property above would say nothing about it."""
    row = torch.arange(40)[None]
    with torch.no_grad():
        wide, narrow = (MODELS["sdpa", window](input_ids=row).logits for window in (None, 8))
    assert (wide - narrow).abs().max() > 1e-2


class Leaking(MistralForCausalLM):
    """Its rows see each other: positions begin anew, and the mask is that of one text."""

    def forward(self, input_ids: torch.Tensor, **named: object) -> object:
        return super().forward(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **named)


def test_a_model_that_mixes_rows_is_refused() -> None:
    clean = MODELS["sdpa", None]
    rows = [[5, 6, 7, 8], [9, 10, 11]]
    check_packing(clean, rows)
    leaking = Leaking(clean.config)
    leaking.load_state_dict(clean.state_dict())
    with pytest.raises(TrainingError, match=r"packed rows see each other.*training.packing"):
        check_packing(leaking, rows)
