"""Answers by a vLLM server, through its OpenAI-compatible API.

Prompts go out as token ids, made by the code that made them for training.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2sql.config import ModelSection
from text2sql.errors import EngineBusy, EngineDead, RequestError, ServingError
from text2sql.serving.engine import (
    Chunk,
    Completion,
    FinishReason,
    Health,
    Lifecycle,
    Load,
    Options,
    check_length,
    check_prompts,
)
from text2sql.serving.places import Place, Places
from text2sql.serving.vllm_client import VllmClient

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from text2sql.serving.supervisor import VllmServer

PROBE_SECONDS = 5.0
NEUTRAL = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""Said with each request, else the server's defaults hold, which a model's generation_config.json may set."""
REASONS: dict[str | None, FinishReason] = {"stop": "stop", "length": "length", "abort": "cancelled"}


class VllmEngine(Lifecycle):
    """`server` is one of ours, which is started and stopped along, or the address of one that runs.

    Args:
        tokenizer: of a server by address, the model whose tokenizer it is.
        model: what is asked for, where the server names several; else the first.
        batch_size: completions in flight; more wait here, where they can be counted and refused.
        queue_size: completions that may wait.
        timeout: seconds for a request once it is sent.
        quiet_seconds: after this long without a token, `health` asks for one.
    """

    def __init__(
        self,
        server: VllmServer | str,
        *,
        tokenizer: ModelSection | None = None,
        model: str | None = None,
        api_key: str | None = None,
        batch_size: int = 64,
        queue_size: int = 256,
        timeout: float = 120.0,
        quiet_seconds: float = 30.0,
    ) -> None:
        self.name = ""
        self.max_tokens = 0
        self._wanted = model
        self._server = None if isinstance(server, str) else server
        self._url = server if isinstance(server, str) else server.url
        self._source = tokenizer
        self._api_key = api_key
        self._places = Places(batch_size, queue_size)
        self._timeout, self._quiet_seconds = timeout, quiet_seconds
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._open: VllmClient | None = None
        self._progressed = 0.0
        self._stopped = "it was not started"

    async def start(self) -> None:
        from text2sql.training.model import load_tokenizer

        source, wanted = self._source, ""
        if self._server is not None:
            checkpoint = await self._server.checkpoint()
            source = ModelSection(name=str(checkpoint.tokenizer), trust_remote_code=checkpoint.trust_remote_code)
            wanted = checkpoint.name
        if source is None:
            raise ServingError("a vLLM server by address needs the model's tokenizer; name its folder or hub name")
        self._tokenizer = await asyncio.to_thread(load_tokenizer, source)
        if self._server is not None:
            await self._server.start()
        self._open = VllmClient(self._url, self._api_key, self._timeout, self.load().max_running + 4)
        self.name, self.max_tokens = await self._model(wanted or Path(source.name).name)
        self._progressed, self._stopped = time.monotonic(), ""

    async def _model(self, wanted: str) -> tuple[str, int]:
        """Name and longest sequence of the model of that name, else of the first that the server has."""
        try:
            cards = {str(card["id"]): card for card in (await self._client.get("/v1/models")).json()["data"]}
            name = self._wanted or (wanted if wanted in cards else next(iter(cards)))
            base = cards.get(cards[name].get("parent"), cards[name])  # an adapter is as long as its base
            return name, int(base.get("max_model_len") or 0)
        except (AttributeError, KeyError, StopIteration, TypeError, ValueError) as error:
            which = f" has no model {self._wanted!r}, or" if self._wanted else ""
            raise EngineDead(f"{self._url}{which} does not name its models as vLLM does") from error

    @property
    def _client(self) -> VllmClient:
        if self._open is None:
            raise EngineDead("the engine was not started")
        return self._open

    async def stop(self, grace: float = 0.0) -> None:
        self._stopped = self._stopped or "it was stopped"
        deadline = time.monotonic() + grace
        while (load := self.load()).running + load.waiting and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        if self._open is not None:
            await self._open.close()
        if self._server is not None:
            await self._server.stop()

    async def generate(self, prompts: Sequence[str], options: Options) -> list[list[Completion]]:
        encoded = await self._encode(prompts, options)
        places = self._places.admit(len(prompts), options.n)
        tasks = [
            asyncio.ensure_future(self._complete(prompt, options, place))
            for prompt, place in zip(encoded, places, strict=True)
        ]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for place in places:
                place.leave()

    async def _complete(self, prompt: list[int], options: Options, place: Place) -> list[Completion]:
        await place.take()
        reply = await self._client.complete(self._body(prompt, options))
        self._progressed = time.monotonic()
        place.leave()
        choices = sorted(reply["choices"], key=lambda choice: choice["index"])
        return [self._completion(choice["text"], len(choice["token_ids"]), len(prompt), choice) for choice in choices]

    @staticmethod
    def _completion(text: str, tokens: int, prompt_tokens: int, choice: dict[str, Any]) -> Completion:
        reason = REASONS.get(choice["finish_reason"])
        if reason is None:
            raise ServingError(f"vLLM ended an answer with {choice['finish_reason']!r}")
        return Completion(text.strip(), prompt_tokens, tokens, reason)

    @contextlib.asynccontextmanager
    async def stream(self, prompt: str, options: Options) -> AsyncIterator[AsyncIterator[Chunk]]:
        if options.n != 1:
            raise RequestError(f"only one completion can be streamed, and n is {options.n}")
        [encoded] = await self._encode([prompt], options)
        [place] = self._places.admit(1, 1)
        try:
            await place.take()
            async with contextlib.aclosing(self._chunks(encoded, options)) as chunks:
                yield chunks
        finally:
            place.leave()

    async def _chunks(self, prompt: list[int], options: Options) -> AsyncGenerator[Chunk, None]:
        text, shown, tokens = "", 0, 0
        async with contextlib.aclosing(self._client.stream(self._body(prompt, options))) as events:
            async for event in events:
                self._progressed = time.monotonic()
                for choice in event["choices"]:
                    text += choice["text"]
                    tokens += len(choice.get("token_ids") or ())
                    if choice["finish_reason"] is not None:
                        completion = self._completion(text, tokens, len(prompt), choice)
                        yield Chunk(completion.text[shown:], completion)
                        return
                    stable = text.strip()
                    if len(stable) > shown:
                        yield Chunk(stable[shown:])
                        shown = len(stable)
        raise EngineDead("vLLM broke off in the middle of an answer")

    async def health(self) -> Health:
        if self._server is not None and self._server.state != "up":
            return Health(alive=False, progressing=False, detail=self._server.why or f"vLLM is {self._server.state}")
        try:
            await self._client.get("/health", timeout=2.0)
        except ServingError as error:
            return Health(alive=False, progressing=False, detail=str(error))
        if time.monotonic() - self._progressed <= self._quiet_seconds or await self._probe():
            return Health(alive=True, progressing=True)
        return Health(alive=True, progressing=False, detail=f"vLLM made no token within {PROBE_SECONDS:g} s")

    async def _probe(self) -> bool:
        """Whether a token comes: one that is asked for here, or, where that has to queue, anybody's."""
        assert self._tokenizer is not None  # noqa: S101 - for the type checker
        try:
            before = await self._generated()
            with contextlib.suppress(TimeoutError, EngineBusy):
                async with asyncio.timeout(PROBE_SECONDS):
                    await self._client.complete(
                        self._body([int(self._tokenizer.eos_token_id)], Options(max_new_tokens=1))
                    )
                self._progressed = time.monotonic()
                return True
            return await self._generated() > before
        except ServingError:
            return False

    async def _generated(self) -> float:
        """Tokens generated since the server started, from its metrics."""
        lines = (await self._client.get("/metrics", timeout=2.0)).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("vllm:generation_tokens_total"))

    def load(self) -> Load:
        return self._places.load()

    async def _encode(self, prompts: Sequence[str], options: Options) -> list[list[int]]:
        from text2sql.data.prompt import encode_prompts

        if self._stopped or self._tokenizer is None:
            raise EngineDead(f"the engine answers no more: {self._stopped}")
        check_prompts(prompts)
        encoded = await asyncio.to_thread(encode_prompts, self._tokenizer, list(prompts))
        for prompt in encoded:
            check_length(len(prompt), options, self.max_tokens)
        return encoded

    def _body(self, prompt: list[int], options: Options) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "prompt": prompt,
            "max_tokens": options.max_new_tokens,
            "temperature": options.temperature,
            "top_p": options.top_p if options.temperature else 1.0,
            "n": options.n,
            **NEUTRAL,
            "return_token_ids": True,
        }
        if options.seed is not None:
            body["seed"] = options.seed
        if options.stop:
            body["stop"] = list(options.stop)
        if options.cache_salt is not None:
            body["cache_salt"] = options.cache_salt
        return body
