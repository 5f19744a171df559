"""What breaks in the middle of a batch fails alone, and health tells of an engine that has stopped."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.serving.decoding import PROMPTS, alone, before_each_pass, limits, real_model_of, served
from text2sql.errors import EngineDead, ServingError
from text2sql.serving.engine import Completion, Options
from text2sql.serving.transformers_engine import TransformersEngine


def token_of(engine: TransformersEngine, text: str) -> int:
    """A token that only `text` brings."""
    assert engine._tokenizer is not None
    [token] = engine._tokenizer(text, add_special_tokens=False)["input_ids"]
    return int(token)


def decoding(engine: TransformersEngine, ids: Any) -> bool:
    """Whether a pass reads no prompt, where nothing is guessed: at most a token for each row."""
    return bool(ids.shape[1] <= engine.load().running)


async def tokens_of(engine: TransformersEngine, prompts: list[str]) -> set[int]:
    """What the answers, of twelve tokens, are made of, their last tokens left out."""
    found: set[int] = set()
    with before_each_pass(engine, lambda ids: found.update(ids.flatten().tolist()) if decoding(engine, ids) else None):
        await engine.generate(prompts, Options(max_new_tokens=12))
    return found


@pytest.mark.parametrize("at", ["the prompt", "a later token"])
def test_a_request_that_breaks_the_model_fails_alone(tiny_model: Path, at: str):
    async def work(engine: TransformersEngine) -> None:
        cursed = token_of(engine, "~")
        position = 0 if at == "the prompt" else 3
        seen: list[int] = []

        def hook(ids: Any) -> None:
            if position == 0 and (ids == cursed).any():
                raise ValueError("cursed prompt")
            if position and decoding(engine, ids) and (ids == seen[0]).any():
                raise ValueError("cursed token")

        prompts = [*PROMPTS[:3], PROMPTS[3] + "~", *PROMPTS[4:7]]
        calm = await engine.generate(prompts, Options(max_new_tokens=12))
        if position:  # a token that the one answer has, and the others have not
            own, others = [await tokens_of(engine, some) for some in ([prompts[3]], prompts[:3] + prompts[4:])]
            seen += sorted(own - others)[:1]
        with before_each_pass(engine, hook):
            found = await asyncio.gather(
                *(engine.generate([prompt], Options(max_new_tokens=12)) for prompt in prompts), return_exceptions=True
            )
        assert isinstance(found[3], ServingError)
        assert "ValueError: cursed" in str(found[3])
        assert [f for row, f in enumerate(found) if row != 3] == [[c] for row, c in enumerate(calm) if row != 3]
        assert await engine.generate(prompts, Options(max_new_tokens=12)) == calm

    served(tiny_model, work, limits=limits(drafts=0))


def test_numbers_that_overflow_fail_their_request_alone_and_leave_no_trace(tiny_model: Path):
    async def work(engine: TransformersEngine) -> None:
        options = Options(max_new_tokens=10)
        calm = await engine.generate(PROMPTS[:6], options)
        cursed = token_of(engine, "~")
        embedding = real_model_of(engine).get_input_embeddings()

        def overflow(_module: Any, arguments: Any, output: Any) -> Any:
            return output.masked_fill((arguments[0] == cursed)[..., None], float("nan"))

        handle = embedding.register_forward_hook(overflow)
        prompts = [*PROMPTS[:3], "~" + PROMPTS[3], *PROMPTS[4:6]]
        found = await asyncio.gather(*(engine.generate([p], options) for p in prompts), return_exceptions=True)
        handle.remove()
        assert isinstance(found[3], ServingError)
        assert "overflow" in str(found[3])
        assert [f for row, f in enumerate(found) if row != 3] == [[c] for row, c in enumerate(calm) if row != 3]
        assert await engine.generate(PROMPTS[:6], options) == calm

    served(tiny_model, work)


@pytest.mark.parametrize("when", ["reading prompts", "decoding"])
def test_out_of_memory_makes_batches_smaller_and_loses_nothing(tiny_model: Path, when: str):
    async def work(engine: TransformersEngine) -> tuple[list[list[Completion]], set[int]]:
        import torch

        sizes: set[int] = set()

        def hook(ids: Any) -> None:
            relevant, rows = decoding(engine, ids) == (when == "decoding"), engine.load().running
            if relevant and rows > 3:
                raise torch.OutOfMemoryError("made up")
            if relevant:
                sizes.add(rows)

        with before_each_pass(engine, hook):
            return await engine.generate(PROMPTS[:10], Options(max_new_tokens=20)), sizes

    found, sizes = served(tiny_model, work, limits=limits(drafts=0))
    assert [completion.text for [completion] in found] == alone(tiny_model, PROMPTS[:10], 20)
    assert max(sizes) > 1, "it halves the batch, and does not give batching up"


def test_no_memory_even_to_make_room_loses_nothing(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    """Those that stay are copied to a smaller cache, which takes memory itself."""

    async def work(engine: TransformersEngine) -> list[list[Completion]]:
        import torch

        assert engine._scheduler is not None
        cache = engine._scheduler._batch.cache
        failed: set[str] = set()

        def fails_once(where: str) -> None:
            if where not in failed:
                failed.add(where)
                raise torch.OutOfMemoryError("made up")

        monkeypatch.setattr(cache, "shrink", lambda _: fails_once("making room"))
        with before_each_pass(engine, lambda ids: fails_once("decoding") if decoding(engine, ids) else None):
            found = await engine.generate(PROMPTS[:6], Options(max_new_tokens=20))
        assert failed == {"decoding", "making room"}
        return found

    found = served(tiny_model, work, limits=limits(drafts=0))
    assert [completion.text for [completion] in found] == alone(tiny_model, PROMPTS[:6], 20)


def test_a_prompt_too_large_for_the_memory_fails_alone(tiny_model: Path):
    async def work(engine: TransformersEngine) -> None:
        cursed = token_of(engine, "~")

        def hook(ids: Any) -> None:
            if (ids == cursed).any():
                raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")

        with before_each_pass(engine, hook):
            found = await asyncio.gather(
                *(engine.generate([prompt], Options(max_new_tokens=30)) for prompt in (*PROMPTS[:5], "~")),
                return_exceptions=True,
            )
        assert isinstance(found[-1], ServingError)
        assert "not enough memory" in str(found[-1])
        assert not any(isinstance(answer, Exception) for answer in found[:-1])

    served(tiny_model, work)


def test_row_21_health_tells_whether_work_gets_on(tiny_model: Path):
    import threading

    async def work(engine: TransformersEngine) -> None:
        assert (await engine.health()).ready
        gate = threading.Event()
        with before_each_pass(engine, lambda _: gate.wait(20) and None):
            task = asyncio.create_task(engine.generate([PROMPTS[0]], Options(max_new_tokens=3)))
            await asyncio.sleep(0.3)
            stuck = await engine.health()
            gate.set()
            await task
        assert (stuck.alive, stuck.progressing) == (True, False)
        assert "no token for" in stuck.detail
        await asyncio.sleep(0.3)
        assert (await engine.health()).ready, "an idle engine is ready, however long ago its last token was"

    served(tiny_model, work, stall_seconds=0.2)


def test_a_fault_of_the_engine_itself_leaves_nobody_waiting(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    async def work(engine: TransformersEngine) -> None:
        assert engine._scheduler is not None
        monkeypatch.setattr(engine._scheduler, "_admit", lambda: 1 / 0)
        calls = [asyncio.create_task(engine.generate([prompt], Options())) for prompt in PROMPTS[:3]]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, EngineDead) for error in found)
        health = await engine.health()
        assert not health.alive
        assert "ZeroDivisionError" in health.detail
        with pytest.raises(EngineDead, match="ZeroDivisionError"):
            await engine.generate([PROMPTS[0]], Options())

    served(tiny_model, work)
