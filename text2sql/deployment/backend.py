"""A server behind the gateway: a process on a port of its own, watched, and started again once it is live."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import httpx

from text2sql.deployment.release import Release
from text2sql.deployment.state import last_words
from text2sql.serving import keeper
from text2sql.serving.supervisor import free_port
from text2sql.serving.vllm_command import LOOPBACK

State = Literal["starting", "up", "down", "failed", "stopped"]

GRACE_SECONDS = 15.0
"""From asking it to end to killing it; its requests have ended before."""
POLL_SECONDS = 0.1
WATCH_SECONDS = 2.0
PROBE_SECONDS = 5.0
LONGEST_PAUSE = 60.0
LOG_BYTES = 50_000_000
"""A log that has grown beyond this is put aside, as <name>.1, when its server starts again."""


@dataclass(frozen=True)
class Spec:
    """How a release is served."""

    release: Release
    command: list[str]
    """Without the port: `--port N` is added."""
    environment: dict[str, str]
    log: str
    folder: str = ""
    """Where it runs: relative paths in the settings are meant from there."""
    engine: str = ""
    startup_seconds: float = 600.0
    since: str = ""
    """When it went live."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def asks_for(self, other: Spec) -> bool:
        """Whether both serve the same in the same way; a terminal's variables do not count."""
        return self._substance() == other._substance()

    def _substance(self) -> tuple[Any, ...]:
        ours = {name: value for name, value in self.environment.items() if name.startswith("TEXT2SQL_")}
        return self.release, self.command, ours, self.folder, self.engine, self.startup_seconds

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Self:
        return cls(**raw | {"release": Release.from_dict(raw["release"])})


@dataclass(eq=False)
class Backend:
    """One server. Belongs to the event loop that starts it.

    While it is on trial, its end is the end of it; once it `lives_on`, it returns by itself.
    """

    spec: Spec
    lives_on: bool = False
    inherited: tuple[int, ...] = ()
    """Descriptors that its keeper holds until nothing of it is left."""
    state: State = "starting"
    why: str = ""
    """Why it is not up, in one line."""
    port: int = 0
    restarts: int = 0
    held: int = 0
    """Requests that it answers now."""
    _idle: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None
    _keeper: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Begin; `state` tells how it goes."""
        self._task = asyncio.create_task(self._live(), name=f"backend {self.spec.release.version}")

    def live_on(self) -> None:
        """Its trial is over."""
        self.lives_on = True
        if self.state == "failed":  # a moment ago
            self.start()

    @contextlib.contextmanager
    def hold(self) -> Any:
        """While a request is under way."""
        self.held += 1
        self._idle.clear()
        try:
            yield self
        finally:
            self.held -= 1
            if not self.held:
                self._idle.set()

    async def drain(self, seconds: float) -> None:
        """Until its requests have ended, or the time is over."""
        if self.held:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._idle.wait()

    async def stop(self) -> None:
        """End it and everything it started."""
        self.state, self.why = "stopped", ""  # from here on nobody may count on it
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._end()

    def told(self) -> dict[str, Any]:
        """For the status."""
        return {
            "spec": self.spec.to_dict(),
            "state": self.state,
            "why": self.why,
            "restarts": self.restarts,
            "url": self.url,
            "in_flight": self.held,
        }

    async def _live(self) -> None:
        failed = 0
        async with httpx.AsyncClient(timeout=PROBE_SECONDS, trust_env=False) as client:
            while True:
                self.state = "starting"
                try:
                    await self._launch()
                    self.why = await self._becomes_ready(client)
                    if not self.why:
                        self.state, failed = "up", 0
                        self.why = await self._fails(client)
                except OSError as error:
                    self.why = f"it cannot be started: {error}"
                self.state = "down"
                await self._end()
                if not self.lives_on:
                    self.state = "failed"
                    return
                await asyncio.sleep(min(2.0**failed, LONGEST_PAUSE))
                failed += 1
                self.restarts += 1

    async def _launch(self) -> None:
        self.port = free_port()
        log, folder = self._log, Path(self.spec.folder)
        log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > LOG_BYTES:
                log.replace(f"{log}.1")
        # The keeper ends with us, even when we are killed, and whatever the server started ends with it.
        self._keeper = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", keeper.__file__, str(log), str(GRACE_SECONDS)),
            *(*self.spec.command, "--port", str(self.port)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            pass_fds=self.inherited,
            env=self.spec.environment,
            cwd=folder if folder.is_dir() else None,
            start_new_session=True,
        )

    async def _becomes_ready(self, client: httpx.AsyncClient) -> str:
        """ "" once it is ready, else why it is not."""
        deadline = time.monotonic() + self.spec.startup_seconds
        while time.monotonic() < deadline:
            if (ended := self._ended()) is not None:
                return ended
            if await self._is_ready(client):
                return ""
            await asyncio.sleep(POLL_SECONDS)
        return (
            f"it was not ready within {self.spec.startup_seconds:g} s (deploy.startup_seconds): {last_words(self._log)}"
        )

    async def _fails(self, client: httpx.AsyncClient) -> str:
        """Why it is up no more, when that comes; not being ready for as long as a start may take is a reason too."""
        ready = time.monotonic()
        while (ended := self._ended()) is None:
            if await self._is_ready(client):
                ready = time.monotonic()
            elif time.monotonic() - ready > self.spec.startup_seconds:
                return f"it was not ready for {self.spec.startup_seconds:g} s"
            assert self._keeper is not None  # noqa: S101 - for the type checker
            with contextlib.suppress(TimeoutError):
                # not wait_for: Python 3.11's forgets that it was cancelled when the process ends at that moment
                async with asyncio.timeout(WATCH_SECONDS):
                    await self._keeper.wait()
        return ended

    def _ended(self) -> str | None:
        assert self._keeper is not None  # noqa: S101
        code = self._keeper.returncode
        return None if code is None else f"it ended with exit code {code}: {last_words(self._log)}; see {self._log}"

    async def _is_ready(self, client: httpx.AsyncClient) -> bool:
        try:
            return (await client.get(f"{self.url}/readyz")).is_success
        except httpx.HTTPError:
            return False

    @property
    def _log(self) -> Path:
        return Path(self.spec.log)

    async def _end(self) -> None:
        """Of the process. Begun again where it was cut short: it is forgotten only once it has ended."""
        if (process := self._keeper) is None:
            return
        assert process.stdin is not None  # noqa: S101
        process.stdin.close()
        try:
            async with asyncio.timeout(GRACE_SECONDS + keeper.KILL_SECONDS + 5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        self._keeper = None
