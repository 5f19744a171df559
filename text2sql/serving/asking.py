"""How the answering flow reaches the engine, and what that costs."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from text2sql.errors import EngineBusy, RequestError
from text2sql.serving.engine import Completion, FinishReason, Options

if TYPE_CHECKING:
    from text2sql.serving.messages import Usage
    from text2sql.serving.service import Service, Tell

T = TypeVar("T")


class Asking:
    """One request's questions to one engine.

    Args:
        wanted: how the first question is put, its completions in this order; a repair asks for the likeliest one.
        usage: gets the tokens.
        tell: gets the text of the very first completion as it grows.
    """

    def __init__(self, service: Service, wanted: Sequence[Options], usage: Usage, tell: Tell | None = None) -> None:
        self._service, self._wanted, self._usage, self._tell = service, wanted, usage, tell
        self._asked = False
        self._finished: dict[str, FinishReason] = {}

    async def ask(self, prompt: str, _: int) -> Sequence[str]:
        """Texts for a prompt; a repair that does not fit the model's length, or finds no place, gets none."""
        first, self._asked = not self._asked, True
        likeliest = dataclasses.replace(self._wanted[0], temperature=0.0, top_p=1.0, n=1, seed=None)
        try:
            found = await self._completions(
                self._service.served.wrap(prompt), self._wanted if first else [likeliest], first
            )
        except (EngineBusy, RequestError):  # what was answered is worth more than to be told to ask again
            if first:
                raise
            return []
        self._service.metrics.generated(found)
        self._usage.add(found[0].prompt_tokens, sum(completion.completion_tokens for completion in found))
        for completion in found:
            self._finished.setdefault(completion.text, completion.finish_reason)
        return [completion.text for completion in found]

    def finished(self, text: str) -> FinishReason:
        """Why a completion of that text ended."""
        return self._finished.get(text, "stop")

    async def _completions(self, prompt: str, wanted: Sequence[Options], first: bool) -> list[Completion]:
        async def one(number: int, options: Options) -> list[Completion]:
            if first and number == 0 and self._tell:
                return [await self._service.stream(prompt, options, self._tell)]
            return await self._service.generate(prompt, options)

        parts = await together([one(number, options) for number, options in enumerate(wanted)])
        return [completion for part in parts for completion in part]


async def together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; when one fails, the others are cancelled and it is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
