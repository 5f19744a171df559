"""A server behind the gateway, ended at moments that do not suit."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.deployment.local import SERVER
from text2sql.deployment.backend import Backend, Spec
from text2sql.deployment.release import Release

SECONDS = 20.0


def with_a_server(folder: Path, then: Callable[[Backend], Awaitable[None]], **plan: Any) -> None:
    """Do something to a server that is up, and would return by itself."""
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    command = [sys.executable, "-I", str(SERVER), str(path)]
    spec = Spec(Release("m", "1", "d", "", ""), command, dict(os.environ), str(folder / "log"))

    async def main() -> None:
        backend = Backend(spec, lives_on=True)
        backend.start()
        try:
            async with asyncio.timeout(SECONDS):
                while backend.state != "up":
                    await asyncio.sleep(0.02)
                await then(backend)
        finally:
            if backend._keeper is not None:
                os.kill(backend._keeper.pid, signal.SIGKILL)

    asyncio.run(main())


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_one_that_is_stopped_while_it_dies_does_not_return(tmp_path: Path):
    async def both_at_once(backend: Backend) -> None:
        process = backend._keeper
        assert process is not None
        await asyncio.sleep(0.2)  # until the watch waits for its end, and is the first to hear of it
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        await backend.stop()
        assert backend.state == "stopped"

    with_a_server(tmp_path, both_at_once)


def test_one_that_is_stopped_while_it_is_being_ended_has_ended_then(tmp_path: Path):
    """The watch had begun to end a server, and was cancelled over it."""

    async def cut_short(backend: Backend) -> None:
        process = backend._keeper
        assert process is not None
        ending = asyncio.create_task(backend._end())
        await asyncio.sleep(0.2)
        ending.cancel()
        await backend.stop()
        assert not is_there(process.pid)

    with_a_server(tmp_path, cut_short, lingers=1)
