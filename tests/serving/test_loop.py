"""An event loop for code that has none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from text2sql.serving.loop import LoopThread


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    found = LoopThread("of a test")
    found.start()
    yield found
    found.close()


def test_results_and_errors_come_back(loop: LoopThread):
    async def work(number: int) -> int:
        await asyncio.sleep(0)
        if number < 0:
            raise ValueError("below zero")
        return number + 1

    assert loop.wait(lambda: work(1)) == 2
    with pytest.raises(ValueError, match="below zero"):
        loop.wait(lambda: work(-1))
    with pytest.raises(ZeroDivisionError):
        loop.wait(lambda: work(1 // 0))


def test_cancelling_ends_the_work(loop: LoopThread):
    begun, ended = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    future = loop.submit(work)
    assert begun.wait(5)
    assert future.cancel()
    assert ended.wait(5)


def test_what_is_cancelled_before_it_begins_is_never_made(loop: LoopThread):
    """A coroutine that nobody awaits would be warned of, in the middle of a terminal."""
    held, made = threading.Event(), []
    loop._loop.call_soon_threadsafe(held.wait)

    async def work() -> None: ...

    future = loop.submit(lambda: made.append(work) or work())
    future.cancel()
    held.set()
    loop.wait(work)
    assert made == []


def test_work_that_ends_with_its_loop_is_cancelled():
    loop = LoopThread("of a test")
    loop.start()
    future = loop.submit(lambda: asyncio.sleep(60))
    loop.close()
    with pytest.raises(CancelledError):
        future.result(5)
