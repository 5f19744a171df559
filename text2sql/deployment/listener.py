"""How the gateway listens: uvicorn over h11, and what a stranger may take of it.

uvicorn waits forever for the end of headers and of a body. Here whatever is begun ends: a head that does not come is
answered 408, a connection too many 503, and who still sends when the answer is out has a moment. What bodies may be is
for the proxy to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from text2sql.serving.problems import Problem

MAX_CONNECTIONS = 400
"""Each may take another one to a server, and a process may usually open 1,024 files."""
HEAD_SECONDS = 15.0
"""From the beginning of a connection, or of a later request on it, to the end of that request's headers."""
MAX_HEAD_BYTES = 16 << 10
"""Longer headers are answered 400."""
KEEP_ALIVE_SECONDS = 75
"""More than clients keep theirs: a connection that is closed while it is used again loses a request."""
LINGER_SECONDS = 1.0
"""Who is answered while still sending reads the answer first: closing over unread bytes resets the connection."""
RETRY_AFTER = 5


class BoundedProtocol(H11Protocol):
    """One connection."""

    _late: asyncio.TimerHandle | None = None
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(unavailable("there are too many connections"))
        else:
            self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._late is None and self.conn.their_state is h11.IDLE:
            self._expect_head()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head_is_there()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self.loop.call_later(LINGER_SECONDS, self._hang_up, self.cycle)
        elif self._late is None and self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._expect_head()  # the next request has begun while this one was answered

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        words = f"the headers did not arrive in {HEAD_SECONDS:g} s"
        self._late = self.loop.call_later(HEAD_SECONDS, self._refuse, Problem(408, "slow_request", words))

    def _head_is_there(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _hang_up(self, answered: object) -> None:
        if self.cycle is answered and self.conn.their_state is h11.SEND_BODY:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        self._refused = True
        headers, body = told(problem)
        status = f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}"
        head = [status, *(f"{name}: {value}" for name, value in headers.items()), "connection: close", "", ""]
        self.transport.write("\r\n".join(head).encode() + body)
        self.loop.call_later(LINGER_SECONDS, self.transport.close)


class Server(uvicorn.Server):
    """Signals are for the gateway, not for each of its two servers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server(app: Any, drain_seconds: float) -> Server:
    """Of an ASGI app."""
    return Server(
        uvicorn.Config(
            app,
            http=BoundedProtocol,
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,  # the servers' own stands
            proxy_headers=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(round(drain_seconds), 1),
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
    )


def unavailable(words: str) -> Problem:
    """It is worth asking again."""
    return Problem(503, "not_ready", words, retry_after=RETRY_AFTER)


def told(problem: Problem) -> tuple[dict[str, str], bytes]:
    """Headers, in lower case, and body of the answer that a problem is."""
    body = json.dumps(problem.to_dict()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    return headers | {name.lower(): value for name, value in problem.headers.items()}, body
