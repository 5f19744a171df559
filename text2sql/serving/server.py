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
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import uvicorn

from text2sql.errors import Text2SQLError
from text2sql.serving.app import create_app
from text2sql.serving.connection import KEEP_ALIVE_SECONDS, MAX_HEAD_BYTES, BoundedProtocol, Bounds, listening
from text2sql.serving.engines import build_served
from text2sql.serving.logs import configure_logs

if TYPE_CHECKING:
    from fastapi import FastAPI

    from text2sql.serving.engine import Engine
    from text2sql.serving.settings import ServerSettings

logger = logging.getLogger(__name__)

SWITCH_SECONDS = 1e-4
"""For how long the event loop may keep the interpreter from the thread that decodes, which gives it up with every
operation of torch; Python's own 5 ms are half a pass."""


def serve(settings: ServerSettings, engine: Engine | None = None) -> int:
    """Run until a signal; the exit code.

    Raises:
        ModelError, EngineDead: the model cannot be loaded.
        OutputError: the address cannot be listened on.
    """
    configure_logs(settings.log_level, settings.log_content)
    sys.setswitchinterval(SWITCH_SECONDS)
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
    """How HTTP is spoken: no proxy's word is taken, and no client can hold a connection by doing nothing with it."""
    # Each question in work has a connection, and as many clients may be between two questions.
    connections = max(Bounds.max_connections, 2 * settings.max_in_flight)
    bounds = Bounds(head_seconds=settings.body_timeout, max_connections=connections)
    return uvicorn.Config(
        app,
        # Not httptools, which uvicorn would prefer: it gathers headers without end.
        http=functools.partial(BoundedProtocol, bounds=bounds),  # type: ignore[arg-type]
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(round(settings.drain_seconds), 1),
        ws="none",
    )


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
