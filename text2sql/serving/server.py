"""The process that serves: it listens at once, loads the model meanwhile, and finishes what it took when told to end.

On SIGTERM or SIGINT /readyz turns 503; after `shutdown_delay` seconds no connection is taken any more; what is in work
has `drain_seconds` to finish; the exit code is 0. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from text2sql.errors import OutputError, Text2SQLError
from text2sql.serving.app import create_app
from text2sql.serving.engines import build_served
from text2sql.serving.logs import configure_logs

if TYPE_CHECKING:
    from fastapi import FastAPI

    from text2sql.serving.engine import Engine
    from text2sql.serving.settings import ServerSettings

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 75
"""More than clients and proxies keep theirs: a connection that is closed while it is used again loses a request."""
_MAX_HEADER_BYTES = 16 << 10
"""Of a head that is not complete yet, whatever one read of the socket brings."""


def serve(settings: ServerSettings, engine: Engine | None = None) -> int:
    """Run until a signal; the exit code.

    Raises:
        ModelError, EngineDead: the model cannot be loaded.
        OutputError: the address cannot be listened on.
    """
    configure_logs(settings.log_level, settings.log_content)
    failures: list[Text2SQLError] = []
    server: _Server

    def give_up(error: Text2SQLError) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(settings, engine or build_served(settings), give_up)
    config = uvicorn_config(app, settings)
    server = _Server(config, app.state.service, settings.shutdown_delay)
    with listening(settings.host, settings.port) as found:
        host, port = found.getsockname()[:2]
        logger.info("listening", extra={"url": f"http://{f'[{host}]' if ':' in host else host}:{port}"})
        asyncio.run(server.serve(sockets=[found]))
    if failures:
        raise failures[0]
    return 0 if server.started else 1


def uvicorn_config(app: FastAPI, settings: ServerSettings) -> uvicorn.Config:
    """How HTTP is spoken: no proxy's word is taken, and a request's head is bounded in size and time."""
    return uvicorn.Config(
        app,
        # Not httptools, which uvicorn would prefer: it gathers headers without end.
        http=functools.partial(_Protocol, head_seconds=settings.body_timeout),  # type: ignore[arg-type]
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        lifespan="on",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(round(settings.drain_seconds), 1),
        ws="none",
    )


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens there.

    Raises:
        OutputError: the address is taken or not ours.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        raise OutputError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); choose another --port"
        ) from None
    with found:
        yield found


class _Protocol(H11Protocol):
    """uvicorn waits for a request's head for ever, and each connection that trickles one holds a socket."""

    def __init__(self, *arguments: Any, head_seconds: float, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._head_seconds = head_seconds
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch()

    def _watch(self) -> None:
        """A head has its time from the connection's start, or from its first bytes after an earlier answer."""
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request, whatever uvicorn declares
        if cycle is not None and not cycle.response_complete:
            self._unwatch()
        elif self._late is None:
            self._late = self.loop.call_later(self._head_seconds, self.transport.close)

    def _unwatch(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class _Server(uvicorn.Server):
    """uvicorn's own would die of the signal that it was ended with, and not exit with 0."""

    def __init__(self, config: uvicorn.Config, service: object, delay: float) -> None:
        super().__init__(config)
        self._service, self._delay = service, delay

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_end, loop, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _asked_to_end(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        if self._service.draining:  # type: ignore[attr-defined]
            self.should_exit = self.force_exit = True
            return
        logger.info("ending", extra={"signal": signal.Signals(number).name})
        self._service.draining = True  # type: ignore[attr-defined]
        loop.call_later(self._delay, setattr, self, "should_exit", True)
