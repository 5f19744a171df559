"""An engine that can be exchanged while it answers: the new one takes what comes, the old one finishes what it has."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from text2sql.errors import EngineDead
from text2sql.serving.engine import Chunk, Completion, Engine, Health, Lifecycle, Load, Options
from text2sql.training.recipe import Recipe


@dataclass(eq=False)
class Served:
    """An engine with the way it wants to be asked; one request keeps to one of them, its repair included."""

    engine: Engine
    recipe: Recipe
    wrap: Callable[[str], str]
    """A prompt → what the engine gets."""
    held: int = 0
    """Who still works with it."""
    free: asyncio.Event = field(default_factory=asyncio.Event)


class EngineSwitch(Lifecycle):
    """Is an Engine, and passes everything on to the current one."""

    def __init__(self, engine: Engine, recipe: Recipe | None = None, wrap: Callable[[str], str] = str) -> None:
        self._current = Served(engine, recipe or Recipe(), wrap)
        self._leaving: set[Served] = set()
        self._changing = asyncio.Lock()
        self._stopped = False

    @property
    def name(self) -> str:
        return self._current.engine.name

    @property
    def max_tokens(self) -> int:
        return self._current.engine.max_tokens

    @contextlib.contextmanager
    def hold(self) -> Iterator[Served]:
        """The current engine, which is not stopped before this ends, unless its time runs out."""
        served = self._current
        served.held += 1
        served.free.clear()
        try:
            yield served
        finally:
            served.held -= 1
            if not served.held:
                served.free.set()

    async def to(
        self, engine: Engine, recipe: Recipe | None = None, wrap: Callable[[str], str] = str, grace: float = 60.0
    ) -> None:
        """Start an engine, send new requests to it, and stop the old one once its own are done, at the latest in
        `grace` seconds. Returns when the old one has stopped.

        Raises:
            ModelError, EngineDead: the new one does not start or is not ready; the old one goes on as if never asked.
        """
        async with self._changing:
            if self._stopped:
                raise EngineDead("the server is being stopped; there is nothing to switch")
            try:
                await engine.start()
                health = await engine.health()
                if not health.ready:
                    raise EngineDead(f"the new engine started and is not ready: {health.detail or 'no reason given'}")
            except BaseException:
                await engine.stop()
                raise
            old, self._current = self._current, Served(engine, recipe or Recipe(), wrap)
            self._leaving.add(old)
            try:
                if old.held:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(old.free.wait(), grace)
            finally:
                await old.engine.stop()
                self._leaving.discard(old)

    async def start(self) -> None:
        await self._current.engine.start()

    async def stop(self, grace: float = 0.0) -> None:
        self._stopped = True
        await asyncio.gather(*(served.engine.stop(grace) for served in (self._current, *self._leaving)))

    async def generate(self, prompts: Sequence[str], options: Options) -> list[list[Completion]]:
        with self.hold() as served:
            return await served.engine.generate(prompts, options)

    @contextlib.asynccontextmanager
    async def stream(self, prompt: str, options: Options) -> AsyncIterator[AsyncIterator[Chunk]]:
        with self.hold() as served:
            async with served.engine.stream(prompt, options) as chunks:
                yield chunks

    async def health(self) -> Health:
        return await self._current.engine.health()

    def load(self) -> Load:
        """Of the current engine and of one that still finishes."""
        loads = [served.engine.load() for served in (self._current, *self._leaving)]
        return Load(
            running=sum(load.running for load in loads),
            waiting=sum(load.waiting for load in loads),
            max_running=loads[0].max_running,
            max_waiting=loads[0].max_waiting,
        )
