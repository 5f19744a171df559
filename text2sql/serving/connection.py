"""How connections are taken: uvicorn over h11, and what a stranger may take of one.

uvicorn waits for ever for the end of headers, and for a client to read. Here whatever is begun ends: a head that does
not come is answered 408, a connection too many 503, and who does not read the answer, or still sends when it is out, is
cut off. What bodies may be is for the app to say. The gateway has this too, so it imports nothing of the API.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from text2sql.errors import OutputError
from text2sql.serving.problems import Problem

VERSION_HEADER = "X-Model-Version"
"""Of every reply from a stable address."""
BACKLOG = 2048
MAX_HEAD_BYTES = 16 << 10
"""Of a head that is not complete yet, whatever one read of the socket brings; longer ones are answered 400."""
KEEP_ALIVE_SECONDS = 75
"""More than clients and proxies keep theirs: a connection that is closed while it is used again loses a request."""
LINGER_SECONDS = 1.0
"""Who is answered while still sending reads the answer first: closing over unread bytes resets the connection."""
RETRY_AFTER = 5


@dataclass(frozen=True)
class Bounds:
    """What a connection may take."""

    head_seconds: float = 15.0
    """From the beginning of a connection, or of a later request on it, to the end of that request's headers."""
    write_seconds: float = 30.0
    """In this time a client must read something of what waits for it."""
    max_connections: int = 400
    """At a time; at the gateway each may take another one to a server, and a process may usually open 1,024 files."""


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens there.

    Raises:
        OutputError: the address is taken or not ours.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        raise OutputError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); choose another --port"
        ) from None
    with found:
        yield found


class BoundedProtocol(H11Protocol):
    """One connection."""

    def __init__(self, *arguments: Any, bounds: Bounds, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._bounds = bounds
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # to be told of any byte that the kernel does not take
        if len(self.connections) > self._bounds.max_connections:
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
        self._all_is_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        self._all_is_read()
        super().resume_writing()

    def _expect_head(self) -> None:
        seconds = self._bounds.head_seconds
        late = Problem(408, "slow_request", f"the headers did not arrive in {seconds:g} s")
        self._late = self.loop.call_later(seconds, self._refuse, late)

    def _head_is_there(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _expect_reading(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(self._bounds.write_seconds, self._check_reading, waiting)

    def _check_reading(self, before: int) -> None:
        """Nothing more is written while something waits, so that less of it means that the client reads."""
        if self.transport.get_write_buffer_size() < before:
            self._expect_reading()
        else:
            self.transport.abort()  # close() would wait for the client

    def _all_is_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _hang_up(self, answered: RequestResponseCycle) -> None:
        if self.cycle is answered and self.conn.their_state is h11.SEND_BODY:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        self._refused = True
        headers, body = raw_answer(problem)
        status = f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}"
        head = [status, *(f"{name}: {value}" for name, value in headers.items()), "connection: close", "", ""]
        self.transport.write("\r\n".join(head).encode() + body)
        self.loop.call_later(LINGER_SECONDS, self.transport.close)


def unavailable(words: str) -> Problem:
    """It is worth asking again."""
    return Problem(503, "not_ready", words, retry_after=RETRY_AFTER)


def raw_answer(problem: Problem) -> tuple[dict[str, str], bytes]:
    """Headers, in lower case, and body of the answer that a problem is."""
    body = json.dumps(problem.to_dict()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    return headers | {name.lower(): value for name, value in problem.headers.items()}, body
