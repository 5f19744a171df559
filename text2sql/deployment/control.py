"""How the gateway is told what to do: HTTP over a Unix socket that only its owner can open."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from text2sql.deployment.backend import Spec
from text2sql.deployment.state import StateFolder
from text2sql.errors import DeploymentError

if TYPE_CHECKING:
    from text2sql.deployment.gateway import Gateway

SOCKET_CHARS = 100
"""A longer path of a socket is more than some systems take."""


def control_app(gateway: Gateway) -> Starlette:
    """What the deploy step, `status` and `stop` say to the gateway."""

    async def status(_: Request) -> JSONResponse:
        return JSONResponse(gateway.told())

    async def begin(request: Request) -> JSONResponse:
        await gateway.begin(Spec.from_dict(await request.json()))
        return JSONResponse(gateway.told())

    async def promote(_: Request) -> JSONResponse:
        gateway.promote()
        return JSONResponse(gateway.told())

    async def restore(_: Request) -> JSONResponse:
        await gateway.restore()
        return JSONResponse(gateway.told())

    async def discard(_: Request) -> JSONResponse:
        await gateway.discard()
        return JSONResponse(gateway.told())

    async def settle(_: Request) -> JSONResponse:
        gateway.settle()
        return JSONResponse(gateway.told())

    async def stop(_: Request) -> JSONResponse:
        gateway.ending.set()
        return JSONResponse({})

    async def refused(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 409)

    orders = (begin, promote, restore, discard, settle, stop)
    return Starlette(
        routes=[Route("/status", status), *(Route(f"/{order.__name__}", order, methods=["POST"]) for order in orders)],
        exception_handlers={DeploymentError: refused},
    )


def socket_path(folder: StateFolder) -> Path:
    """In the state folder, or where its path is short enough."""
    path = folder.path / "control.sock"
    if len(str(path)) <= SOCKET_CHARS:
        return path
    return Path(tempfile.mkdtemp(prefix="text2sql-")) / "control.sock"


@contextlib.contextmanager
def private_socket(path: Path) -> Iterator[socket.socket]:
    """A Unix socket that its owner alone can open."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as found:
        before = os.umask(0o177)
        try:
            found.bind(str(path))
        finally:
            os.umask(before)
        found.listen(16)
        try:
            yield found
        finally:
            path.unlink(missing_ok=True)
