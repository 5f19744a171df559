"""Answers in this process, by transformers: requests that come at any time share the batch."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from text2sql.errors import EngineDead, RequestError
from text2sql.serving.engine import Chunk, Completion, Health, Lifecycle, Load, Options, check_length, check_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from text2sql.serving.scheduler import Event, Limits, Scheduler
    from text2sql.serving.sequences import Sequence as Row

ENCODED_INLINE = 20_000
"""Characters up to which a prompt is tokenised in the event loop; more would hold it up."""


class TransformersEngine(Lifecycle):
    """`model` is a merged folder, a hub name, or an adapter folder, whose base is loaded in 16 bits.

    Args:
        base: for an adapter, where its base is now; default: where its config says.
        stall_seconds: with work to do and no token for so long, it does not count as progressing.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        base: str | Path | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        limits: Limits | None = None,
        stall_seconds: float = 60.0,
    ) -> None:
        self.name = Path(model).name if Path(model).is_dir() else str(model)
        self.max_tokens = 0
        self._source = (model, base, revision, trust_remote_code)
        self._limits = limits
        self._stall_seconds = stall_seconds
        self._scheduler: Scheduler | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        from text2sql.serving.loading import load_served, longest_sequence
        from text2sql.serving.scheduler import Limits, Scheduler

        self._loop = asyncio.get_running_loop()
        model, tokenizer = await asyncio.to_thread(load_served, *self._source)
        limits = self._limits or Limits()
        self.max_tokens = min(longest_sequence(model), limits.cache_tokens)
        self._tokenizer = tokenizer
        # Not here: it lays the weights out anew, for seconds where they are many.
        self._scheduler = await asyncio.to_thread(Scheduler, model, tokenizer, limits, self._deliver)
        self._scheduler.start()

    async def stop(self, grace: float = 0.0) -> None:
        scheduler = self._scheduler
        if scheduler is None:
            return
        scheduler.dead = scheduler.dead or "it is being stopped"
        deadline = time.monotonic() + grace
        while (load := scheduler.load()).running + load.waiting and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        await asyncio.to_thread(scheduler.stop)

    async def generate(self, prompts: Sequence[str], options: Options) -> list[list[Completion]]:
        job = _Job(len(prompts) * options.n)
        if not prompts:
            return []
        rows = self._rows(await self._encode(prompts), options, job)
        scheduler = self._running()
        scheduler.submit(rows)
        try:
            done = await job.finished
        finally:
            scheduler.cancel(rows)  # nothing to do where all went well
        return [done[start : start + options.n] for start in range(0, len(done), options.n)]

    @contextlib.asynccontextmanager
    async def stream(self, prompt: str, options: Options) -> AsyncIterator[AsyncIterator[Chunk]]:
        if options.n != 1:
            raise RequestError(f"only one completion can be streamed, and n is {options.n}")
        job = _Job(1, streamed=True)
        rows = self._rows(await self._encode([prompt]), options, job)
        scheduler = self._running()
        scheduler.submit(rows)
        try:
            yield job.chunks()
        finally:
            scheduler.cancel(rows)

    async def health(self) -> Health:
        scheduler = self._scheduler
        if scheduler is None or scheduler.dead is not None:
            return Health(alive=False, progressing=False, detail=scheduler.dead or "" if scheduler else "not started")
        load, still = scheduler.load(), time.monotonic() - scheduler.progressed
        if load.running + load.waiting and still > self._stall_seconds:
            return Health(alive=True, progressing=False, detail=f"no token for {still:.0f} s with work to do")
        return Health(alive=True, progressing=True)

    def load(self) -> Load:
        return self._running().load()

    def _running(self) -> Scheduler:
        if self._scheduler is None:
            raise EngineDead("the engine was not started")
        return self._scheduler

    async def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        from text2sql.data.prompt import encode_prompts

        self._running()
        assert self._tokenizer is not None  # noqa: S101 - for the type checker
        check_prompts(prompts)
        if sum(map(len, prompts)) > ENCODED_INLINE:
            return await asyncio.to_thread(encode_prompts, self._tokenizer, list(prompts))
        return encode_prompts(self._tokenizer, list(prompts))

    def _rows(self, encoded: list[list[int]], options: Options, job: _Job) -> list[Row]:
        from text2sql.serving.sequences import Sequence as Row

        for prompt in encoded:
            check_length(len(prompt), options, self.max_tokens)
        # A prompt's candidates draw from 0 on in every request, so that a prompt gets the same ones in any company.
        return [
            Row(prompt, options, owner=(job, place * options.n + candidate), index=candidate, streamed=job.streamed)
            for place, prompt in enumerate(encoded)
            for candidate in range(options.n)
        ]

    def _deliver(self, events: list[tuple[Row, Event]]) -> None:
        assert self._loop is not None  # noqa: S101
        with contextlib.suppress(RuntimeError):  # the loop was closed, and nobody waits
            self._loop.call_soon_threadsafe(_hand_out, events)


def _hand_out(events: list[tuple[Row, Event]]) -> None:
    for row, event in events:
        job, place = row.owner
        job.take(place, event)


class _Job:
    """One call: its completions as they come in. Lives in the event loop."""

    def __init__(self, count: int, streamed: bool = False) -> None:
        self.streamed = streamed
        self.finished: asyncio.Future[list[Completion]] = asyncio.get_running_loop().create_future()
        self._done: list[Completion | None] = [None] * count
        self._chunks: asyncio.Queue[Event] = asyncio.Queue()

    def take(self, place: int, event: Event) -> None:
        if self.streamed:
            self._chunks.put_nowait(event)
        elif self.finished.done():
            return
        elif isinstance(event, Exception):
            self.finished.set_exception(event)
        elif isinstance(event, Completion):
            self._done[place] = event
            whole = [completion for completion in self._done if completion is not None]
            if len(whole) == len(self._done):
                self.finished.set_result(whole)

    async def chunks(self) -> AsyncIterator[Chunk]:
        text = ""
        while True:
            event = await self._chunks.get()
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Completion):
                yield Chunk(text, event)
                return
            if text:
                yield Chunk(text)
            text = event
