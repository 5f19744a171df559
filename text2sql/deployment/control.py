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
from text2sql.deployment.state import StateFolder, read_json
from text2sql.errors import DeploymentError

if TYPE_CHECKING:
    from text2sql.deployment.gateway import Gateway

SOCKET = "control.sock"
SOCKET_CHARS = 100
"""A longer path of a socket is more than some systems take."""
SHORT_PREFIX = "text2sql-"


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

    async def adopt(_: Request) -> JSONResponse:
        gateway.promote()
        gateway.settle()
        return JSONResponse(gateway.told())

    async def stop(_: Request) -> JSONResponse:
        gateway.stop()
        return JSONResponse({})

    async def refused(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 409)

    orders = (begin, promote, restore, discard, settle, adopt, stop)
    return Starlette(
        routes=[Route("/status", status), *(Route(f"/{order.__name__}", order, methods=["POST"]) for order in orders)],
        exception_handlers={DeploymentError: refused},
    )


@contextlib.contextmanager
def private_socket(folder: StateFolder) -> Iterator[tuple[Path, socket.socket]]:
    """A Unix socket that its owner alone can open, and its path."""
    with _short_folder(folder) as short, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as found:
        path = short / SOCKET
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            found.bind(str(path))
        finally:
            os.umask(before)
        found.listen(16)
        try:
            yield path, found
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _short_folder(folder: StateFolder) -> Iterator[Path]:
    """The state folder, or one whose path is short enough; that one goes with the gateway, or with the next one."""
    left = Path(read_json(folder.state).get("socket", ""))
    if left.parent != folder.path and left.parent.name.startswith(SHORT_PREFIX):  # by a gateway that was killed
        with contextlib.suppress(OSError):
            left.unlink(missing_ok=True)
            left.parent.rmdir()
    if len(str(folder.path / SOCKET)) <= SOCKET_CHARS:
        yield folder.path
        return
    with tempfile.TemporaryDirectory(prefix=SHORT_PREFIX) as made:
        yield Path(made)
