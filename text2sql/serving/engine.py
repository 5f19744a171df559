"""What every engine offers: prompts in, completions with token counts and finish reasons out.

An engine belongs to one event loop, the one that awaited its `start`. Whoever stops waiting (a cancelled task, a
`stream` left early) frees its place at once. `SyncEngine` is the same for code without a loop.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, Self

from text2sql.errors import RequestError
from text2sql.serving.loop import LoopThread

FinishReason = Literal["stop", "length", "cancelled"]

MAX_N = 64
MAX_STOPS = 16
MAX_STOP_CHARS = 128
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Options:
    """How to answer.

    Raises:
        RequestError: a value is out of range.
    """

    max_new_tokens: int = 256
    """Tokens a completion, its end token included."""
    temperature: float = 0.0
    """0 takes the likeliest token; higher draws more freely."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together hold this share."""
    n: int = 1
    """Completions a prompt; more than one needs a temperature."""
    seed: int | None = None
    """The same seed draws the same completions, whatever else is asked meanwhile."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion; they are not part of it."""
    cache_salt: str | None = None
    """What was computed for a prompt's beginning is used again among requests of one salt only: how long an answer
    takes must not tell one client what another has asked. None: for all who send none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", tuple(self.stop))
        _within("max_new_tokens", self.max_new_tokens, 1, 1_000_000)
        _within("temperature", self.temperature, 0.0, 2.0)
        _within("top_p", self.top_p, 0.0, 1.0)
        _within("n", self.n, 1, MAX_N)
        if self.top_p == 0.0:
            raise RequestError("top_p 0 leaves no token to draw; set temperature to 0 for the likeliest one")
        if self.n > 1 and self.temperature == 0.0:
            raise RequestError(f"n {self.n} with temperature 0 would be {self.n} times the same; set a temperature")
        if self.seed is not None:
            _within("seed", self.seed, 0, MAX_SEED)
        if len(self.stop) > MAX_STOPS or not all(0 < len(text) <= MAX_STOP_CHARS for text in self.stop):
            raise RequestError(f"stop takes at most {MAX_STOPS} texts of 1 to {MAX_STOP_CHARS} characters")


def _within(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not math.isfinite(value) or not low <= value <= high:
        raise RequestError(f"{name} must be from {low:g} to {high:g}, and is {value!r}")


def check_prompts(prompts: Sequence[str]) -> None:
    """Raises:
    RequestError: one is empty.
    """
    if not all(prompt.strip() for prompt in prompts):
        raise RequestError("a prompt is empty")


def check_length(prompt_tokens: int, options: Options, max_tokens: int) -> None:
    """Raises:
    RequestError: the prompt leaves no room for the answer.
    """
    if prompt_tokens + options.max_new_tokens > max_tokens:
        raise RequestError(
            f"the prompt has {prompt_tokens} tokens and its answer may have {options.max_new_tokens}, together more "
            f"than the model's {max_tokens}; shorten the schema, or ask for fewer tokens"
        )


@dataclass(frozen=True)
class Completion:
    """One answer."""

    text: str
    """Without the end token and outer whitespace, as the evaluation reads answers."""
    prompt_tokens: int
    completion_tokens: int
    """Tokens generated, the end token included."""
    finish_reason: FinishReason
    """stop: an end token or a stop text; length: max_new_tokens; cancelled: nobody waited any longer."""


@dataclass(frozen=True)
class Chunk:
    """More text of a streamed answer. The texts of a stream, joined, are its completion's text."""

    text: str
    completion: Completion | None = None
    """With the last chunk, and with no other: the whole answer."""


@dataclass(frozen=True)
class Load:
    """How busy an engine is, in completions (a prompt counts n times)."""

    running: int
    waiting: int
    max_running: int
    max_waiting: int


@dataclass(frozen=True)
class Health:
    """Whether the engine is alive and gets on with its work; an idle engine does."""

    alive: bool
    progressing: bool
    detail: str = ""
    """What is wrong, in one line."""

    @property
    def ready(self) -> bool:
        return self.alive and self.progressing


class Engine(Protocol):
    """A model that answers. Usable as `async with engine:`, which starts and stops it."""

    @property
    def name(self) -> str:
        """What the model is called."""

    @property
    def max_tokens(self) -> int:
        """Tokens that a prompt and its answer may have together."""

    async def start(self) -> None:
        """Returns when the engine answers.

        Raises:
            ModelError: the model cannot be loaded.
            EngineDead: the server does not come up.
        """

    async def stop(self, grace: float = 0.0) -> None:
        """Take nothing more, give what was taken `grace` seconds to finish, and let the rest fail with EngineDead."""

    async def generate(self, prompts: Sequence[str], options: Options) -> list[list[Completion]]:
        """`options.n` completions of each prompt, in order; all prompts are taken, or none.

        Raises:
            RequestError: a prompt is empty or too long, or there are more of them than the queue can ever hold.
            EngineBusy: the queue is full now.
            EngineTimeout, EngineDead: no answer comes.
        """

    def stream(self, prompt: str, options: Options) -> AbstractAsyncContextManager[AsyncIterator[Chunk]]:
        """`async with engine.stream(...) as chunks:` one completion as it grows.

        Entering raises what `generate` raises at once, so that a server can still answer with a status; leaving early
        aborts the rest.
        """

    async def health(self) -> Health:
        """Never raises, and answers within seconds."""

    def load(self) -> Load:
        """Costs nothing: for metrics."""


class Lifecycle:
    """`async with` for an engine."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        raise NotImplementedError

    async def stop(self, grace: float = 0.0) -> None:
        raise NotImplementedError


class SyncEngine:
    """An engine for code without an event loop: it gets a loop in a thread of its own. Start and stop it by `with`.

    An interrupt (Ctrl-C) while `generate` or `stream` waits aborts that answer and is raised on; the engine stays.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._loop = LoopThread("engine loop")

    def __enter__(self) -> Self:
        self._loop.start()
        try:
            self._loop.wait(self.engine.start)
        except BaseException:
            self._loop.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._loop.wait(self.engine.stop)
        finally:
            self._loop.close()

    def generate(self, prompts: Sequence[str], options: Options | None = None) -> list[list[Completion]]:
        """As Engine.generate."""
        return self._loop.wait(lambda: self.engine.generate(prompts, options or Options()))

    def stream(self, prompt: str, options: Options | None = None) -> Iterator[Chunk]:
        """As Engine.stream; closing the iterator, or an exception in its consumer, aborts the rest."""
        opened = self.engine.stream(prompt, options or Options())
        chunks = self._loop.wait(opened.__aenter__)
        try:
            while (chunk := self._loop.wait(lambda: _next(chunks))) is not None:
                yield chunk
        finally:
            self._loop.wait(lambda: opened.__aexit__(None, None, None))

    def health(self) -> Health:
        """As Engine.health."""
        return self._loop.wait(self.engine.health)

    def load(self) -> Load:
        """As Engine.load."""
        return self.engine.load()


async def _next(chunks: AsyncIterator[Chunk]) -> Chunk | None:
    return await anext(chunks, None)
