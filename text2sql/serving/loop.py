"""An event loop in a thread of its own, for code that has none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Between `start` and `close`."""

    def __init__(
        self, name: str, on_error: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None = None
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(on_error)
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, begin: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Begin the work; cancelling what is returned cancels it.

        The coroutine is made in the loop's thread. An interrupt may come between any two steps of the main one, and a
        coroutine that is made there and not handed over yet would never be awaited.
        """
        future: Future[T] = Future()
        self._loop.call_soon_threadsafe(self._begin, begin, future)
        return future

    def wait(self, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The work's result. An interrupt (Ctrl-C) meanwhile cancels it, and is raised on."""
        future = self.submit(begin)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _begin(self, begin: Callable[[], Coroutine[Any, Any, T]], future: Future[T]) -> None:
        if future.cancelled():
            return
        try:
            task = self._loop.create_task(begin())
        except Exception as error:  # noqa: BLE001 - as if the work had failed, which somebody waits for
            future.set_exception(error)
            return
        task.add_done_callback(lambda _: _hand_over(task, future))
        future.add_done_callback(lambda _: future.cancelled() and self._loop.call_soon_threadsafe(task.cancel))

    def close(self) -> None:
        """Cancel what is left, and end the thread."""
        try:
            self.wait(self._end)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_default_executor()


def _hand_over(task: asyncio.Task[T], future: Future[T]) -> None:
    """What became of the task; of one that nobody waits for any more, its error goes to the loop's handler."""
    if task.cancelled():
        future.cancel()
    if not future.set_running_or_notify_cancel():
        return
    error = task.exception()
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())
