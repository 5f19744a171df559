"""Real servers for tests: the app in uvicorn on loopback, in a thread, over an engine whose answers are known."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from text2sql.errors import EngineBusy, EngineDead, RequestError, Text2SQLError
from text2sql.serving.app import create_app
from text2sql.serving.connection import listening
from text2sql.serving.engine import Chunk, Completion, Engine, Health, Lifecycle, Load, Options
from text2sql.serving.server import uvicorn_config
from text2sql.serving.settings import ServerSettings

SINGERS = "CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, age INTEGER)"
COUNT = "SELECT COUNT(*) FROM singer"


@dataclass
class ScriptedEngine(Lifecycle):
    """Answers by what stands in the prompt: the first text whose key is in it, and the repair's when it was asked to.

    Keeps what an engine keeps: places, a queue, who was cancelled.
    """

    answers: dict[str, str | list[str]] = field(default_factory=dict)
    repairs: dict[str, str] = field(default_factory=dict)
    default: str = COUNT
    seconds: float = 0.0
    """A completion takes so long."""
    places: int = 8
    queue: int = 64
    name: str = "scripted"
    max_tokens: int = 4_096
    prompts: list[str] = field(default_factory=list)
    options: list[Options] = field(default_factory=list)
    cancelled: int = 0
    alive: bool = False
    progressing: bool = True
    failure: Exception | None = None
    running: int = 0
    waiting: int = 0
    most_waiting: int = 0
    stopped: int = 0

    async def start(self) -> None:
        if isinstance(self.failure, Text2SQLError) and not self.alive:
            raise self.failure
        self._room = asyncio.Semaphore(self.places)
        self.alive = True

    async def stop(self, grace: float = 0.0) -> None:  # noqa: ARG002 - the protocol's
        self.alive = False
        self.stopped += 1

    async def generate(self, prompts: Sequence[str], options: Options) -> list[list[Completion]]:
        self.options.append(options)
        return [[await self._one(prompt, options, i) for i in range(options.n)] for prompt in prompts]

    @contextlib.asynccontextmanager
    async def stream(self, prompt: str, options: Options) -> AsyncIterator[AsyncIterator[Chunk]]:
        self.options.append(options)
        self._check(prompt, options)

        async def chunks() -> AsyncIterator[Chunk]:
            done = await self._one(prompt, options, 0)
            middle = len(done.text) // 2
            yield Chunk(done.text[:middle])
            yield Chunk(done.text[middle:], done)

        yield chunks()

    async def health(self) -> Health:
        return Health(self.alive, self.alive and self.progressing, "" if self.progressing else "no token for 99 s")

    def load(self) -> Load:
        return Load(self.running, self.waiting, self.places, self.queue)

    def _check(self, prompt: str, options: Options) -> None:
        if not self.alive:
            raise EngineDead("the engine answers no more")
        if self.failure is not None:
            raise self.failure
        if len(prompt.split()) + options.max_new_tokens > self.max_tokens:
            raise RequestError("the prompt is longer than the model can read")
        if self.waiting >= self.queue:
            raise EngineBusy(f"{self.waiting} wait already", retry_after=2)

    async def _one(self, prompt: str, options: Options, index: int) -> Completion:
        self._check(prompt, options)
        self.waiting += 1
        self.most_waiting = max(self.waiting, self.most_waiting)
        try:
            await self._room.acquire()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            self.prompts.append(prompt)
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
            self._room.release()
        text = self._text(prompt, index + (options.temperature > 0))
        return Completion(text, len(prompt.split()), len(text.split()) + 1, "stop")

    def _text(self, prompt: str, index: int) -> str:
        if "-- error:" in prompt:
            for key, text in self.repairs.items():
                if key in prompt:
                    return text
        for key, found in self.answers.items():
            if key in prompt:
                return found if isinstance(found, str) else found[min(index, len(found) - 1)]
        return self.default


@dataclass
class Running:
    """A server that runs, and what is inside."""

    url: str
    app: Any
    engine: Any
    server: uvicorn.Server
    loop: asyncio.AbstractEventLoop

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False, **options)

    def call(self, work: Callable[[], Any]) -> Any:
        """Run a coroutine in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work(), self.loop).result(30)


@contextlib.contextmanager
def running(engine: Engine, wait: bool = True, **settings: Any) -> Iterator[Running]:
    """A server with these settings until the context ends."""
    chosen = ServerSettings(**{"port": 0, "guard_processes": 1, "drain_seconds": 5} | settings)
    app = create_app(chosen, engine)
    server = uvicorn.Server(uvicorn_config(app, chosen))
    loops: list[asyncio.AbstractEventLoop] = []
    with listening("127.0.0.1", 0) as found:

        async def main() -> None:
            loops.append(asyncio.get_running_loop())
            await server.serve(sockets=[found])

        thread = threading.Thread(target=lambda: asyncio.run(main()), name="server")
        thread.start()
        try:
            url = f"http://127.0.0.1:{found.getsockname()[1]}"
            until(lambda: server.started or not thread.is_alive())
            assert server.started, "the server did not start"
            if wait:
                until(lambda: httpx.get(f"{url}/readyz", trust_env=False).status_code == 200)
            yield Running(url, app, engine, server, loops[0])
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait for something to be true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.02)


def asked(**changes: Any) -> dict[str, Any]:
    """A request to /generate."""
    return {"question": "How many singers are there?", "schema_text": SINGERS} | changes


def key_file(folder: Path, *lines: str) -> Path:
    path = folder / "keys.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path
