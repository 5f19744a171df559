"""The stable address: every request goes to the server that is live when it comes, and nowhere else.

Bodies pass as they come, in both directions, and a client that goes away ends its request at the server too. What a
request may be and who may send it is for the server to say; its routes are the only ones there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import httpx

from text2sql.deployment.backend import Backend
from text2sql.serving.connection import VERSION_HEADER, raw_answer, unavailable
from text2sql.serving.intake import slow
from text2sql.serving.problems import Problem

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_WORDS = b"connection expect keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer"
HOP_BY_HOP = frozenset([*_WORDS.split(), b"transfer-encoding", b"upgrade"])
"""Headers about one connection (RFC 9110, 7.6.1)."""
CONNECT_TRIES = 5
CONNECT_PAUSE = 0.1


class _Gone(Exception):
    """The client did not wait."""


class Proxy:
    """An ASGI app over the server that `current` names.

    Args:
        timeout: seconds without a byte from the server after which a request is given up.
        body_timeout: seconds in which a request's body must have come.
        max_body_bytes: the longest that any route of the server takes.
    """

    def __init__(
        self, current: Callable[[], Backend | None], timeout: float, body_timeout: float, max_body_bytes: int
    ) -> None:
        self._current, self._body_timeout, self._max_body_bytes = current, body_timeout, max_body_bytes
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout, connect=5.0, pool=None),
            # shorter than the server's own patience: a connection that it is about to close must not be used
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=5.0),
            trust_env=False,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = _Body(receive, scope["headers"], self._body_timeout, self._max_body_bytes)
        begun = False

        async def pass_on(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        work = asyncio.ensure_future(self._answer(scope, body, pass_on))
        watch = asyncio.ensure_future(body.client_gone())
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        except _Gone:
            pass
        except Problem as problem:
            if begun:  # half an answer must not look like a whole one
                raise
            await _tell(problem, send)
        finally:
            work.cancel()
            watch.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)

    async def _answer(self, scope: dict[str, Any], body: _Body, send: Send) -> None:
        """Raises:
        Problem: no server is there, or it breaks off; the body is too long, or does not come.
        """
        body.check_length()
        for attempt in range(CONNECT_TRIES):
            backend = self._current()
            if backend is None:
                raise unavailable("nothing is deployed")
            with backend.hold():
                try:
                    await self._forward(backend, scope, body, send)
                    return
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    if attempt == CONNECT_TRIES - 1:
                        raise unavailable("the server is being started again") from None
                except httpx.TimeoutException:
                    raise Problem(504, "timeout", "the server did not answer in time") from None
                except httpx.TransportError as error:
                    logger.warning("the server broke off: %s", error)
                    raise unavailable("the server broke off the request") from error
            await asyncio.sleep(CONNECT_PAUSE)

    async def _forward(self, backend: Backend, scope: dict[str, Any], body: _Body, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name not in HOP_BY_HOP]
        request = self._client.build_request(
            scope["method"],
            _address(backend, scope["raw_path"], scope["query_string"]),
            headers=headers,
            content=body.pieces() if body.is_there else None,
        )
        # httpx adds what a client of its own would say
        for name in ("accept", "accept-encoding", "user-agent"):
            if name.encode() not in dict(headers):
                del request.headers[name]
        reply = await self._client.send(request, stream=True)
        try:
            headers = [(name.lower(), value) for name, value in reply.headers.raw if name.lower() not in HOP_BY_HOP]
            headers.append((VERSION_HEADER.lower().encode(), backend.spec.release.version.encode()))
            await send({"type": "http.response.start", "status": reply.status_code, "headers": headers})
            async for piece in reply.aiter_raw():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await reply.aclose()


class _Body:
    """A request's body as it comes, within bounds, and word of a client that goes away."""

    def __init__(self, receive: Receive, headers: list[tuple[bytes, bytes]], seconds: float, limit: int) -> None:
        self._receive, self._seconds, self._limit, self._bytes = receive, seconds, limit, 0
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._length = dict(headers).get(b"content-length")  # digits, says h11
        self.is_there = any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)
        self._read = asyncio.Event()
        if not self.is_there:
            self._read.set()

    def check_length(self) -> None:
        """Raises:
        Problem: 413 for one that says it is too long.
        """
        if self._length is not None and int(self._length[:20]) > self._limit:
            raise self._too_long()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises:
        Problem: 408, 413
        """
        while not self._read.is_set():
            try:
                async with asyncio.timeout_at(self._deadline):
                    message = await self._receive()
            except TimeoutError:
                raise slow(self._seconds) from None
            if message["type"] == "http.disconnect":
                raise _Gone
            piece = message.get("body", b"")
            self._bytes += len(piece)
            if self._bytes > self._limit:
                raise self._too_long()
            if not message.get("more_body", False):
                self._read.set()
            yield piece

    def _too_long(self) -> Problem:
        return Problem(413, "too_long", f"the request has more than {self._limit} bytes; shorten it")

    async def client_gone(self) -> None:
        """Returns when it is; until the body has been read, whoever reads that will notice."""
        await self._read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _address(backend: Backend, path: bytes, query: bytes) -> httpx.URL:
    """Raises:
    Problem: it is no path.
    """
    try:
        if not path.startswith(b"/"):
            raise ValueError
        return httpx.URL(backend.url).copy_with(raw_path=path + (b"?" + query if query else b""))
    except (ValueError, httpx.InvalidURL):
        raise Problem(400, "invalid_request", "this is no path") from None


async def _tell(problem: Problem, send: Send) -> None:
    headers, body = raw_answer(problem)
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    with contextlib.suppress(OSError):
        await send({"type": "http.response.start", "status": problem.status, "headers": raw})
        await send({"type": "http.response.body", "body": body})
