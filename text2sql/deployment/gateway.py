"""python -m text2sql.deployment.gateway STATE_FOLDER: the process that keeps the stable address and its servers.

It is told what to do over a socket that only its owner can open; the public address has the servers' routes and no
other. What it was told it writes down first, so that one that was killed goes on from there when it is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn

from text2sql.deployment.backend import Backend, Spec
from text2sql.deployment.control import control_app, private_socket, socket_path
from text2sql.deployment.proxy import Proxy
from text2sql.deployment.state import StateFolder, locked, read_json, started_at, write_json
from text2sql.errors import DeploymentError, Text2SQLError
from text2sql.serving.server import listening

logger = logging.getLogger(__name__)

ORPHAN_SECONDS = 5.0


@dataclass(frozen=True)
class Plan:
    """How the gateway runs."""

    host: str
    port: int
    drain_seconds: float
    keep_previous: bool
    """Whether the server before this one goes on running."""
    timeout: float
    """Seconds without a byte after which a request is given up."""


class Gateway:
    """The servers behind one address: the current one, the one before it, and one that may come after it."""

    def __init__(self, folder: StateFolder, plan: Plan, socket_path: Path) -> None:
        self.folder, self.plan, self.socket_path = folder, plan, socket_path
        self.current: Backend | None = None
        self.previous: Backend | None = None
        self.candidate: Backend | None = None
        self.ending = asyncio.Event()
        self.proxy = Proxy(lambda: self.current, plan.timeout)
        self._before: tuple[Backend | None, Backend | None] | None = None
        """What was current and previous before `promote`, until it is settled."""
        self._running: set[Backend] = set()
        self._resting: set[asyncio.Task[None]] = set()

    def resume(self) -> None:
        """Serve again what was served when the last gateway ended."""
        kept = read_json(self.folder.state)
        if raw := kept.get("current"):
            self.current = Backend(Spec.from_dict(raw), lives_on=True)
            self._start(self.current)
        if raw := kept.get("previous"):
            self.previous = Backend(Spec.from_dict(raw), state="stopped")
        self._write()

    async def begin(self, spec: Spec) -> None:
        """Start a candidate. The previous server, where it runs still, is one without a start."""
        await self.discard()  # left by a deployment that died: there is one at a time
        if self.previous is not None and self.previous.state == "up" and self.previous.spec.asks_for(spec):
            self.candidate = self.previous
            return
        self.candidate = Backend(spec)
        self._start(self.candidate)

    def promote(self) -> None:
        """New requests go to the candidate from here on."""
        candidate = self.candidate
        if candidate is None or candidate.state != "up":
            why = "it was ended" if candidate is None else candidate.why or f"it is {candidate.state}"
            raise DeploymentError(f"the new server is not ready: {why}")
        self._before = (self.current, self.previous)
        candidate.spec = replace(candidate.spec, since=datetime.now(UTC).isoformat(timespec="seconds"))
        self.candidate, self.previous, self.current = None, self.current, candidate
        self._write()
        logger.info("version %s is live", candidate.spec.release.version)

    async def restore(self) -> None:
        """As it was before `promote`, or before `begin` where it did not come to that."""
        await self.discard()
        if self._before is None:
            return
        failed = self.current
        (self.current, self.previous), self._before = self._before, None
        self._write()
        if failed is not None and failed is not self.previous:
            await self._rest(failed)

    async def discard(self) -> None:
        """End the candidate."""
        candidate, self.candidate = self.candidate, None
        if candidate is not None and candidate is not self.previous:
            await self._stop(candidate)

    def settle(self) -> None:
        """The current server is here to stay; let go of what is no longer needed, once its requests have ended."""
        if self.current is not None:
            self.current.live_on()
        before, self._before = self._before or (None, None), None
        for backend in {*before} - {None, self.current}:
            assert backend is not None  # noqa: S101 - for the type checker
            if backend is not self.previous or not self.plan.keep_previous:
                task = asyncio.create_task(self._rest(backend))
                self._resting.add(task)
                task.add_done_callback(self._resting.discard)

    def told(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "resting": len(self._resting),
            **{
                name: backend.told() if backend is not None else None
                for name, backend in (
                    ("current", self.current),
                    ("previous", self.previous),
                    ("candidate", self.candidate),
                )
            },
        }

    async def close(self) -> None:
        """End every server."""
        for task in self._resting:
            task.cancel()
        await asyncio.gather(*self._resting, return_exceptions=True)
        await asyncio.gather(*(self._stop(backend) for backend in [*self._running]))
        await self.proxy.close()
        self._write(pid=0)

    async def watch(self) -> None:
        """End what a deployment left that has died: the lock is free then, and nobody will promote its server.

        A gateway that has nothing to serve ends itself.
        """
        while True:
            await asyncio.sleep(ORPHAN_SECONDS)
            if self.candidate is None and self._before is None and self.current is not None:
                continue
            with contextlib.suppress(DeploymentError), locked(self.folder.lock, seconds=0.0):
                await self.discard()
                self.settle()
                if self.current is None:
                    logger.info("there is nothing to serve")
                    self.ending.set()
                    await asyncio.Event().wait()  # whoever deploys next finds the lock taken until this is over

    async def _rest(self, backend: Backend) -> None:
        await backend.drain(self.plan.drain_seconds)
        if backend not in (self.current, self.candidate):  # a rollback may have come meanwhile
            await self._stop(backend)

    def _start(self, backend: Backend) -> None:
        self._running.add(backend)
        backend.start()

    async def _stop(self, backend: Backend) -> None:
        await backend.stop()
        self._running.discard(backend)

    def _write(self, pid: int | None = None) -> None:
        mine = os.getpid() if pid is None else pid
        write_json(
            self.folder.state,
            {
                "pid": mine,
                "started": started_at(mine) or "" if mine else "",
                "socket": str(self.socket_path),
                "host": self.plan.host,
                "port": self.plan.port,
                "current": self.current.spec.to_dict() if self.current else None,
                "previous": self.previous.spec.to_dict() if self.previous else None,
            },
        )


class _Server(uvicorn.Server):
    """Signals are for the gateway, not for each of its two servers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(app: Any, drain: float) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,  # the servers' own stands
            proxy_headers=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=max(round(drain), 1),
            h11_max_incomplete_event_size=16 << 10,
        )
    )


async def run(folder: StateFolder, plan: Plan, public: socket.socket) -> None:
    """Until a signal, or the order to stop."""
    path = socket_path(folder)
    with private_socket(path) as private:
        gateway = Gateway(folder, plan, path)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, gateway.ending.set)
        servers = [(_server(gateway.proxy, plan.drain_seconds), public), (_server(control_app(gateway), 1.0), private)]
        gateway.resume()
        tasks = [asyncio.create_task(server.serve(sockets=[found])) for server, found in servers]
        watching = asyncio.create_task(gateway.watch())
        logger.info("listening at http://%s:%d", plan.host, plan.port)
        try:
            ending = asyncio.create_task(gateway.ending.wait())
            await asyncio.wait({ending, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for server, _ in servers:
                server.should_exit = True
            await asyncio.gather(*tasks, return_exceptions=True)
            await gateway.close()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


def main(state: str) -> int:
    """The exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    folder = StateFolder(Path(state))
    try:
        plan = Plan(**read_json(folder.plan))
        with listening(plan.host, plan.port) as public:
            asyncio.run(run(folder, plan, public))
    except Text2SQLError as error:
        logger.error("error: %s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
