"""A client that listens: server-sent events of work under way, and work that ends when nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event

from text2sql.serving.intake import gone
from text2sql.serving.observe import Record, logger
from text2sql.serving.problems import Problem, problem_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope
    from starlette.types import Send as ASGISend

T = TypeVar("T")
Send = Callable[[bytes], None]
"""Takes what `event` makes."""

PING_SECONDS = 15.0
"""Silence after which proxies are told that the connection lives."""
EVENTS = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "description": "An event.",
            "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
            "required": ["data"],
        }
    }
}
"""`content` of a route that streams, for the OpenAPI document."""
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def event(data: Any, name: str | None = None) -> bytes:
    """One event; data is JSON, or a string as it is."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return format_sse_event(data_str=text, event=name)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; it is cancelled when the client goes away. The body must have been read.

    Raises:
        Problem: it went away.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise gone()
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def event_stream(
    request: Request, record: Record, work: Callable[[Send], Awaitable[None]], failed: Callable[[Problem], bytes]
) -> EventSourceResponse:
    """What the work sends, as it comes. Goes on only once it has sent something, so that what it raises before has a
    status of its own; what it raises later ends the stream with `failed`. The work ends with the client.
    """
    sent: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()

    async def run() -> None:
        try:
            await work(sent.put_nowait)
        except Exception as error:  # noqa: BLE001 - told to the client, or raised by the one who waits
            sent.put_nowait(error)
        else:
            sent.put_nowait(None)

    task = asyncio.ensure_future(run())
    try:
        first = await unless_gone(request, sent.get())
        if isinstance(first, BaseException):
            raise first
    except BaseException:
        await _end(task)
        raise
    return _Stream(_told(first, sent, record, failed), task, record)


class _Stream(EventSourceResponse):
    """Ends its work with itself: a client may have gone before its first word, and then nobody begins `content`."""

    def __init__(self, content: AsyncIterator[bytes], task: asyncio.Future[None], record: Record) -> None:
        super().__init__(content, headers=_HEADERS)
        self._task, self._record = task, record

    async def __call__(self, scope: Scope, receive: Receive, send: ASGISend) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if not self._task.done():
                self._record.codes.append("client_gone")
            await _end(self._task)


async def _told(
    first: bytes | None,
    sent: asyncio.Queue[bytes | BaseException | None],
    record: Record,
    failed: Callable[[Problem], bytes],
) -> AsyncIterator[bytes]:
    more: bytes | BaseException | None = first
    while isinstance(more, bytes):
        yield more
        more = await _next_or_ping(sent)
    if isinstance(more, BaseException):
        problem = problem_of(more)
        if problem is None:
            logger.error("a fault of the server", exc_info=more)
            problem = Problem(500, "internal_error", "a fault of the server; its log has the request ID")
        record.failed(problem)
        yield failed(problem)


async def _next_or_ping(sent: asyncio.Queue[bytes | BaseException | None]) -> bytes | BaseException | None:
    try:
        return await asyncio.wait_for(sent.get(), PING_SECONDS)
    except TimeoutError:
        return KEEPALIVE_COMMENT


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _end(task: asyncio.Future[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(task, return_exceptions=True)
