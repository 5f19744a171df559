"""Guesses at the next tokens: which are made, and that they end with the room of their row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.serving.decoding import PROMPTS, limits, real_model_of, served
from text2sql.serving.drafts import Drafts
from text2sql.serving.engine import Options
from text2sql.serving.sequences import Sequence
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
        for at in range(len(prompt) - drafts.context, len(tokens) - drafts.context):
            context = tokens[at : at + drafts.context]
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


def proposed(drafts: Drafts, tokens: list[int], **options: Any) -> list[int]:
    return drafts.propose(Sequence(tokens, Options(max_new_tokens=20, **options), owner=None))


def test_the_longest_known_context_decides():
    drafts = Drafts(1)
    drafts.learn(None, [1, 2, 3, 4])
    drafts.learn(None, [9, 2, 3, 5])
    assert proposed(drafts, [1, 2, 3]) == [4]
    assert proposed(drafts, [9, 2, 3]) == [5]
    assert proposed(drafts, [7, 2, 3]) == [5], "the later one of a tie"
    drafts.learn(None, [8, 2, 3, 4])
    drafts.learn(None, [8, 2, 3, 4])
    assert proposed(drafts, [7, 2, 3]) == [4]
    assert proposed(drafts, [6, 6, 6]) == []


def test_the_guess_must_lead_the_vote():
    drafts = Drafts(1)
    for token in (5, 5, 5, 5, 6, 7):
        drafts.learn(None, [4, token])
    assert proposed(drafts, [4]) == [5], "four of six"
    drafts.learn(None, [4, 8])
    assert proposed(drafts, [4]) == [], "it leads by one of seven"
    for token in (9, 9, 9):
        drafts.learn(None, [4, token])
    assert proposed(drafts, [4]) == [9], "and then another one leads, by two of ten"


def test_guesses_go_on_from_guesses_and_none_is_made_for_another_salt_or_a_draw():
    drafts = Drafts(3)
    drafts.learn("mine", [1, 2, 3, 4, 5])
    assert proposed(drafts, [1], cache_salt="mine") == [2, 3, 4]
    assert proposed(drafts, [1], cache_salt="another") == []
    assert proposed(drafts, [1]) == []
    assert proposed(drafts, [1], cache_salt="mine", temperature=0.5) == []


def test_what_follows_is_learned_from_where_it_starts():
    drafts = Drafts(1)
    drafts.learn(None, [1, 2, 3], start=2)
    assert proposed(drafts, [1]) == []
    assert proposed(drafts, [2]) == [3]


def test_what_was_not_seen_for_the_longest_time_is_forgotten(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("text2sql.serving.drafts.KEPT", 2)
    drafts = Drafts(1)
    for tokens in ([1, 2], [3, 4], [1, 2], [5, 6]):
        drafts.learn(None, tokens)
    assert [proposed(drafts, [token]) for token in (1, 3, 5)] == [[2], [], [6]]


def test_what_is_of_use_is_not_forgotten(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("text2sql.serving.drafts.KEPT", 2)
    drafts = Drafts(1)
    for tokens in ([1, 2], [3, 4]):
        drafts.learn(None, tokens)
    assert proposed(drafts, [1]) == [2]
    drafts.learn(None, [5, 6])
    assert [proposed(drafts, [token]) for token in (1, 3, 5)] == [[2], [], [6]]


def test_the_known_beginning_of_a_prompt_is_learned_from_once(tiny_model: Path):
    """Two prompts of one schema: the second teaches what comes after their common blocks, the seam included."""
    schema = PROMPTS[0]

    async def work(engine: TransformersEngine) -> None:
        assert engine._scheduler is not None
        batch = engine._scheduler._batch
        learned: list[tuple[list[int], int]] = []
        learn = batch._drafts.learn
        batch._drafts.learn = lambda salt, tokens, start=0: (
            learned.append((tokens, start)),
            learn(salt, tokens, start),
        )
        for end in (" one", " two"):
            await engine.generate([schema + end], Options(max_new_tokens=2))
        (first, at), _, (second, later), _ = learned
        whole = engine._tokenizer(schema + " two")["input_ids"]
        known = len(whole) - len(second) + later
        assert (len(first), at) == (len(whole), 0)
        assert (known % 16, later) == (0, batch._drafts.context)
        assert known > 0
        assert second == whole[known - later :]

    served(tiny_model, work)
