"""Guesses at the end of a row's room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.serving.decoding import PROMPTS, limits, real_model_of, served
from text2sql.serving.engine import Options
from text2sql.serving.transformers_engine import TransformersEngine

ROOM = 128
"""Tokens of prompt and answer: one slot of the least width, and not a token more."""


def tokens_alone(model: Path, prompt: str) -> tuple[list[int], list[int]]:
    """A prompt's tokens, and those of its greedy answer up to the end of the room."""
    import torch

    from text2sql.training.model import load_for_inference

    loaded, tokenizer = load_for_inference(model)
    ids: Any = tokenizer(prompt, return_tensors="pt")
    read = ids["input_ids"].shape[1]
    with torch.inference_mode():
        out: Any = loaded.generate(**ids, max_new_tokens=ROOM - read, do_sample=False)
    assert out.shape[1] == ROOM, "the answer fills its room"
    return out[0, :read].tolist(), out[0, read:].tolist()


@pytest.mark.parametrize("right", [False, True], ids=["refused", "taken"])
def test_guesses_end_with_the_room_of_their_row(tiny_model: Path, right: bool):
    """Always eight tokens are known that could come next, and all of them are wrong, or right: neither is read, nor a
    token taken, behind what the model's length and the cache have room for.
    """
    prompt, answer = tokens_alone(tiny_model, PROMPTS[0])
    wrong = next(token for token in range(4, 300) if token not in {*prompt, *answer})

    async def work(engine: TransformersEngine) -> None:
        assert engine._scheduler is not None
        assert engine.max_tokens == ROOM
        batch = engine._scheduler._batch
        drafts, tokens = batch._drafts, prompt + answer
        for at in range(len(prompt) - drafts.before, len(tokens) - drafts.before):
            context = tokens[at : at + drafts.before]
            drafts.learn(None, tokens[at:] if right else [*context, *[wrong] * 9])
        ends: list[int] = []
        guessed: list[int] = []

        def look(_module: Any, _arguments: Any, named: dict[str, Any]) -> None:
            ends.append(int(named["position_ids"].max()) + 1)
            guessed.append(int((named["input_ids"] == wrong).sum()))
            assert batch.cache.width == ROOM

        handle = real_model_of(engine).register_forward_pre_hook(look, with_kwargs=True)
        [[found]] = await engine.generate([PROMPTS[0]], Options(max_new_tokens=len(answer)))
        handle.remove()
        assert (found.finish_reason, found.completion_tokens) == ("length", len(answer))
        assert found.text == engine._tokenizer.decode(answer, skip_special_tokens=True).strip()
        assert max(ends) == ROOM - 1, "what the last token of all looks at"
        if right:
            assert len(ends) < len(answer) / 4
        else:  # none of them is taken, and towards the end there are fewer
            assert len(ends) == len(answer)
            assert guessed[-12:] == [8, 8, 8, 8, 7, 6, 5, 4, 3, 2, 1, 0]

    served(tiny_model, work, limits=limits(cache_tokens=ROOM, drafts=8))
