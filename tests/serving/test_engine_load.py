"""Requests that leave, wait, are too many or too long: the others lose nothing, and room is given back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.serving.decoding import PROMPTS, alone, before_each_pass, limits, served, until
from text2sql.errors import EngineBusy, EngineDead, RequestError
from text2sql.serving.engine import Completion, Options
from text2sql.serving.transformers_engine import TransformersEngine


def test_row_19_a_client_that_goes_away_frees_its_slot(tiny_model: Path):
    async def work(engine: TransformersEngine) -> None:
        long = Options(max_new_tokens=400)
        running = asyncio.create_task(engine.generate([PROMPTS[0]], long))
        queued = asyncio.create_task(engine.generate([PROMPTS[1]], long))
        await until(lambda: (engine.load().running, engine.load().waiting) == (1, 1))
        queued.cancel()
        await until(lambda: engine.load().waiting == 0)
        assert engine.load().running == 1
        running.cancel()
        await until(lambda: engine.load().running == 0, seconds=1.0)
        async with engine.stream(PROMPTS[2], long) as chunks:
            await anext(chunks)
        await until(lambda: engine.load().running == 0, seconds=1.0)
        with pytest.raises(asyncio.CancelledError):
            await running

    served(tiny_model, work, limits=limits(batch_size=1))


def test_cancelled_rows_do_not_disturb_the_others(tiny_model: Path):
    async def work(engine: TransformersEngine) -> list[list[Completion]]:
        doomed = [asyncio.create_task(engine.generate([p], Options(max_new_tokens=200))) for p in PROMPTS[10:14]]
        kept = asyncio.create_task(engine.generate(PROMPTS[:6], Options(max_new_tokens=40)))
        for task in doomed:
            await asyncio.sleep(0.01)
            task.cancel()
        return await kept

    found = served(tiny_model, work, limits=limits(batch_size=10))
    assert [completion.text for [completion] in found] == alone(tiny_model, PROMPTS[:6], 40)


def test_a_full_queue_refuses_at_once_and_takes_nothing_of_it(tiny_model: Path):
    async def work(engine: TransformersEngine) -> None:
        long = Options(max_new_tokens=300)
        tasks = [asyncio.create_task(engine.generate([prompt], long)) for prompt in PROMPTS[:4]]
        await until(lambda: engine.load().waiting == 2)
        with pytest.raises(EngineBusy, match="wait already") as busy:
            await engine.generate(PROMPTS[4:6], long)
        assert 1 <= busy.value.retry_after <= 60
        with pytest.raises(EngineBusy):
            async with engine.stream(PROMPTS[4], Options(max_new_tokens=5)) as _, engine.stream(PROMPTS[5], long):
                pass
        with pytest.raises(RequestError, match="more than the 5 taken"):
            await engine.generate(PROMPTS[:6], long)
        assert all(len(found) == 1 for found in await asyncio.gather(*tasks))

    served(tiny_model, work, limits=limits(batch_size=2, queue_size=3))


def test_the_cache_is_bounded_in_tokens_and_given_back(tiny_model: Path):
    async def work(engine: TransformersEngine) -> None:
        most = 0
        assert engine._scheduler is not None
        cache = engine._scheduler._batch.cache

        def look(_: object) -> None:
            nonlocal most
            most = max(most, cache.slots * cache.width)

        with before_each_pass(engine, look):
            await engine.generate(PROMPTS[:12], Options(max_new_tokens=80))
        assert 0 < most <= 768
        await until(lambda: cache.slots == 0)
        with pytest.raises(RequestError, match="together more than the model's 512"):
            await engine.generate([PROMPTS[0]], Options(max_new_tokens=500))
        with pytest.raises(RequestError, match="is empty"):
            await engine.generate([PROMPTS[0], ""], Options())

    served(tiny_model, work, limits=limits(batch_size=12, cache_tokens=768))


def test_a_long_request_that_has_left_does_not_widen_those_that_come(tiny_model: Path):
    """Under load that never ends: the cache is given back only when nobody is left."""

    async def work(engine: TransformersEngine) -> None:
        assert engine._scheduler is not None
        cache = engine._scheduler._batch.cache
        sizes: list[tuple[int, int]] = []
        with before_each_pass(engine, lambda _: sizes.append((cache.slots, cache.width))):
            long = asyncio.create_task(engine.generate([PROMPTS[0]], Options(max_new_tokens=400)))
            await until(lambda: cache.width == 512)
            staying = asyncio.create_task(engine.generate([PROMPTS[1]], Options(max_new_tokens=80)))
            await until(lambda: engine.load().running == 2)
            long.cancel()
            many = await engine.generate(PROMPTS[2:9], Options(max_new_tokens=60))
            [[stayed]] = await staying
        assert (0, 0) not in sizes[1:], "the load ended in between"
        assert max(slots * width for slots, width in sizes) <= 1024
        assert [c.text for [c] in many] == alone(tiny_model, PROMPTS[2:9], 60)
        assert [stayed.text] == alone(tiny_model, PROMPTS[1:2], 80)

    served(tiny_model, work, limits=limits(batch_size=8, cache_tokens=1024))


def test_a_flood_of_short_requests_does_not_starve_a_long_one(tiny_model: Path):
    async def work(engine: TransformersEngine) -> None:
        short, done = 0, asyncio.Event()

        async def flood(prompt: str) -> None:
            nonlocal short
            while not done.is_set():
                await engine.generate([prompt], Options(max_new_tokens=1))
                short += 1

        long = asyncio.create_task(engine.generate([PROMPTS[0]], Options(max_new_tokens=60)))
        await until(lambda: engine.load().running == 1)
        floods = [asyncio.create_task(flood(prompt)) for prompt in PROMPTS]
        try:
            async with asyncio.timeout(20):
                await long
            assert short > 0
        finally:
            done.set()
            await asyncio.gather(*floods)

    served(tiny_model, work, limits=limits(batch_size=2))


@pytest.mark.parametrize("grace", [30.0, 0.0])
def test_stop_finishes_what_was_taken_if_it_may(tiny_model: Path, grace: float):
    async def work(engine: TransformersEngine) -> None:
        tasks = [asyncio.create_task(engine.generate([p], Options(max_new_tokens=100))) for p in PROMPTS[:4]]
        await until(lambda: engine.load().waiting > 0)
        stopping = asyncio.create_task(engine.stop(grace))
        await asyncio.sleep(0)
        with pytest.raises(EngineDead):
            await engine.generate([PROMPTS[5]], Options(max_new_tokens=1))
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await stopping
        assert {isinstance(answer, EngineDead) for answer in found} == {grace == 0.0}

    served(tiny_model, work, limits=limits(batch_size=2))
