"""How the gateway listens: at the stable address, and at the socket for orders."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import uvicorn

from text2sql.serving.connection import KEEP_ALIVE_SECONDS, MAX_HEAD_BYTES, BoundedProtocol, Bounds


class Server(uvicorn.Server):
    """Signals are for the gateway, not for each of its two servers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server(app: Any, drain_seconds: float, bounds: Bounds | None = None) -> Server:
    """Of an ASGI app."""
    return Server(
        uvicorn.Config(
            app,
            http=functools.partial(BoundedProtocol, bounds=bounds or Bounds()),  # type: ignore[arg-type]
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
