"""python -m text2sql.deployment.gateway STATE_FOLDER: the process that keeps the stable address and its servers.

It is told what to do over a socket that only its owner can open; the public address has the servers' routes and no
other. What is settled it writes down, so that one that was killed goes on from there when it is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from text2sql.deployment.backend import GRACE_SECONDS, Backend, Spec
from text2sql.deployment.control import control_app, private_socket
from text2sql.deployment.listener import server
from text2sql.deployment.proxy import Proxy
from text2sql.deployment.state import StateFolder, locked, read_json, started_at, write_json
from text2sql.errors import DeploymentError, Text2SQLError
from text2sql.serving.connection import listening
from text2sql.serving.keeper import KILL_SECONDS

logger = logging.getLogger(__name__)

ORPHAN_SECONDS = 5.0
LEFT_SECONDS = GRACE_SECONDS + KILL_SECONDS + 5.0
"""In which the servers of a gateway that was killed end: by themselves, but not at once."""


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
    body_timeout: float
    """Seconds in which a request's body must have come."""
    max_body_bytes: int
    """Longest body."""


class Gateway:
    """The servers behind one address: the current one, the one before it, and one that may come after it."""

    def __init__(self, folder: StateFolder, plan: Plan, socket_path: Path, servers_lock: int) -> None:
        self.folder, self.plan, self.socket_path, self.servers_lock = folder, plan, socket_path, servers_lock
        self.current: Backend | None = None
        self.previous: Backend | None = None
        self.candidate: Backend | None = None
        self.ending = asyncio.Event()
        self.proxy = Proxy(
            lambda: self.current if self.serves else None, plan.timeout, plan.body_timeout, plan.max_body_bytes
        )
        self._before: tuple[Backend | None, Backend | None] | None = None
        """What was current and previous before `promote`, until it is settled."""
        self._running: set[Backend] = set()
        self._resting: set[asyncio.Task[None]] = set()
        self._told_to_stop = False

    @property
    def serves(self) -> bool:
        """Whether the current server runs, or will again by itself; one that was told to stop is only remembered."""
        return self.current is not None and self.current.state != "stopped"

    def resume(self) -> None:
        """Serve again what was served when the last gateway ended, unless it was told to stop."""
        kept = read_json(self.folder.state)
        if raw := kept.get("current"):
            self.current = self._backend(Spec.from_dict(raw))
            self.current.lives_on, self.current.state = True, "stopped" if kept.get("stopped") else "starting"
            if self.serves:
                self._start(self.current)
        if raw := kept.get("previous"):
            self.previous = self._backend(Spec.from_dict(raw))
            self.previous.state = "stopped"
        self._write()

    async def begin(self, spec: Spec) -> None:
        """Start a candidate. The previous server, where it runs still, is one without a start."""
        await self._tidy()  # there is one deployment at a time, and this is another
        if self.previous is not None and self.previous.state == "up" and self.previous.spec.asks_for(spec):
            self.candidate = self.previous
            return
        self.candidate = self._backend(spec)
        self._start(self.candidate)

    def promote(self) -> None:
        """New requests go to the candidate from here on; only `settle` makes it stay."""
        candidate = self.candidate
        if candidate is None or candidate.state != "up":
            why = "it was ended" if candidate is None else candidate.why or f"it is {candidate.state}"
            raise DeploymentError(f"the new server is not ready: {why}")
        self._before = (self.current, self.previous)
        candidate.spec = replace(candidate.spec, since=datetime.now(UTC).isoformat(timespec="seconds"))
        if self.current is not None and not self.current.spec.release.is_same_as(candidate.spec.release):
            self.previous = self.current  # the same version again leaves the one before it
        self.candidate, self.current = None, candidate
        logger.info("version %s is live", candidate.spec.release.version)

    async def restore(self) -> None:
        """As it was before `promote`, or before `begin` where it did not come to that."""
        await self.discard()
        if (failed := self._go_back()) is not None:
            await self._rest(failed)

    async def _tidy(self) -> None:
        """Undo what a deployment left that has died; a server that it promoted may have requests to finish."""
        await self.discard()
        if (failed := self._go_back()) is not None:
            self._rest_meanwhile(failed)

    def _go_back(self) -> Backend | None:
        """The server that is needed no more."""
        if self._before is None:
            return None
        failed = self.current
        (self.current, self.previous), self._before = self._before, None
        logger.info("version %s is live again", self.current.spec.release.version if self.current else "none")
        return failed if failed is not self.previous else None

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
        self._write()
        for backend in {*before} - {None, self.current}:
            assert backend is not None  # noqa: S101 - for the type checker
            if backend is not self.previous or not self.plan.keep_previous:
                self._rest_meanwhile(backend)

    def stop(self) -> None:
        """End, and serve nothing when started again until something is deployed or rolled back to."""
        self._told_to_stop = True
        self.ending.set()

    def told(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "resting": len(self._resting),
            "settled": self._before is None,
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
        stopped = self._told_to_stop or not self.serves
        for task in self._resting:
            task.cancel()
        await asyncio.gather(*self._resting, return_exceptions=True)
        await asyncio.gather(*(self._stop(backend) for backend in [*self._running]))
        await self.proxy.close()
        self._write(pid=0, stopped=stopped)

    async def watch(self) -> None:
        """Undo what a deployment left that has died: the lock is free then, and nobody will verify its server.

        A gateway that has nothing to serve ends itself.
        """
        while True:
            await asyncio.sleep(ORPHAN_SECONDS)
            if self.candidate is None and self._before is None and self.serves:
                continue
            with contextlib.suppress(DeploymentError), locked(self.folder.lock, seconds=0.0):
                await self._tidy()
                if not self.serves:
                    logger.info("there is nothing to serve")
                    self.ending.set()
                    await asyncio.Event().wait()  # whoever deploys next finds the lock taken until this is over

    def _rest_meanwhile(self, backend: Backend) -> None:
        task = asyncio.create_task(self._rest(backend))
        self._resting.add(task)
        task.add_done_callback(self._resting.discard)

    async def _rest(self, backend: Backend) -> None:
        await backend.drain(self.plan.drain_seconds)
        if backend not in (self.current, self.candidate):  # a rollback may have come meanwhile
            await self._stop(backend)

    def _backend(self, spec: Spec) -> Backend:
        return Backend(spec, inherited=(self.servers_lock,))

    def _start(self, backend: Backend) -> None:
        self._running.add(backend)
        backend.start()

    async def _stop(self, backend: Backend) -> None:
        await backend.stop()
        self._running.discard(backend)

    def _write(self, pid: int | None = None, stopped: bool | None = None) -> None:
        """What is settled: one that was killed right after `promote` starts again with what was verified."""
        mine = os.getpid() if pid is None else pid
        current, previous = self._before or (self.current, self.previous)
        write_json(
            self.folder.state,
            {
                "pid": mine,
                "started": started_at(mine) or "" if mine else "",
                "socket": str(self.socket_path),
                "host": self.plan.host,
                "port": self.plan.port,
                "stopped": not self.serves if stopped is None else stopped,
                "current": current.spec.to_dict() if current else None,
                "previous": previous.spec.to_dict() if previous else None,
            },
        )


async def run(folder: StateFolder, plan: Plan, public: socket.socket, servers_lock: int) -> None:
    """Until a signal, or the order to stop."""
    with private_socket(folder) as (path, private):
        gateway = Gateway(folder, plan, path, servers_lock)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, gateway.ending.set)
        servers = [(server(gateway.proxy, plan.drain_seconds), public), (server(control_app(gateway), 1.0), private)]
        gateway.resume()
        tasks = [asyncio.create_task(one.serve(sockets=[found])) for one, found in servers]
        watching = asyncio.create_task(gateway.watch())
        logger.info("listening at http://%s:%d", plan.host, plan.port)
        try:
            ending = asyncio.create_task(gateway.ending.wait())
            await asyncio.wait({ending, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one, _ in servers:
                one.should_exit = True
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
        left = "servers of the gateway before this one still run"
        with locked(folder.servers_lock, LEFT_SECONDS, left) as servers_lock, listening(plan.host, plan.port) as public:
            asyncio.run(run(folder, plan, public, servers_lock))
    except Text2SQLError as error:
        logger.error("error: %s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
