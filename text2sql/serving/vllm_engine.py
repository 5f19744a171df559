"""Answers by a vLLM server, through its OpenAI-compatible API.

Prompts go out as token ids, made by the code that made them for training. Closing the connection of a request makes
vLLM abort it, so a cancelled task costs nothing on the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from text2sql.config import ModelSection
from text2sql.errors import EngineBusy, EngineDead, EngineTimeout, RequestError, ServingError
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

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from text2sql.serving.supervisor import VllmServer

CONNECT_SECONDS = 5.0
RETRIES = 3
"""Of connections that were not made; what was sent once is never sent again."""
PROBE_SECONDS = 5.0
NEUTRAL = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""Said with each request, else the server's defaults hold, which a model's generation_config.json may set."""
REASONS: dict[str | None, FinishReason] = {"stop": "stop", "length": "length", "abort": "cancelled"}


class VllmEngine(Lifecycle):
    """`server` is one of ours, which is started and stopped along, or the address of one that runs.

    Args:
        tokenizer: folder or hub name of the served model; of a server of our own: its model.
        batch_size: completions in flight; more wait here, where they can be counted and refused.
        queue_size: completions that may wait.
        timeout: seconds for a request once it is sent.
        quiet_seconds: after this long without a token, `health` asks for one.
    """

    def __init__(
        self,
        server: VllmServer | str,
        *,
        tokenizer: str | Path | None = None,
        api_key: str | None = None,
        batch_size: int = 64,
        queue_size: int = 256,
        timeout: float = 120.0,
        quiet_seconds: float = 30.0,
    ) -> None:
        self.name = ""
        self.max_tokens = 0
        self._server = None if isinstance(server, str) else server
        self._url = server if isinstance(server, str) else server.url
        self._tokenizer_name = tokenizer or (None if isinstance(server, str) else server.model)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._places = Places(batch_size, queue_size)
        self._timeout, self._quiet_seconds = timeout, quiet_seconds
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._client: httpx.AsyncClient | None = None
        self._progressed = 0.0
        self._stopped = "it was not started"

    async def start(self) -> None:
        from text2sql.training.model import load_tokenizer

        if self._tokenizer_name is None:
            raise ServingError("a vLLM server by address needs the model's tokenizer; name its folder or hub name")
        section = ModelSection(name=str(self._tokenizer_name))
        self._tokenizer = await asyncio.to_thread(load_tokenizer, section)
        if self._server is not None:
            await self._server.start()
        self._client = httpx.AsyncClient(
            base_url=self._url,
            headers=self._headers,
            timeout=httpx.Timeout(self._timeout, connect=CONNECT_SECONDS, pool=None),
            # shorter than the server's own patience: a connection that it is about to close must not be used
            limits=httpx.Limits(max_connections=self.load().max_running + 4, keepalive_expiry=2.0),
            trust_env=False,  # no proxy to a server of our own
        )
        try:
            [model] = (await self._get("/v1/models")).json()["data"][:1]
        except (KeyError, ValueError) as error:
            raise EngineDead(f"{self._url} does not name its models as vLLM does") from error
        self.name, self.max_tokens = str(model["id"]), int(model.get("max_model_len") or 0)
        self._progressed, self._stopped = time.monotonic(), ""

    async def stop(self, grace: float = 0.0) -> None:
        self._stopped = self._stopped or "it was stopped"
        deadline = time.monotonic() + grace
        while (load := self.load()).running + load.waiting and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        if self._client is not None:
            await self._client.aclose()
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
        reply = await self._post(self._body(prompt, options))
        self._progressed = time.monotonic()
        place.leave()
        choices = sorted(reply.json()["choices"], key=lambda choice: choice["index"])
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
        deadline = time.monotonic() + self._timeout
        reply = await self._post(self._body(prompt, options) | {"stream": True}, stream=True)
        text, shown, tokens = "", 0, 0
        async with contextlib.aclosing(_events(reply)) as events:
            async for event in events:
                self._progressed = time.monotonic()
                if self._progressed > deadline:
                    raise EngineTimeout(f"the answer took more than {self._timeout:g} s")
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
            await self._get("/health", timeout=2.0)
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
                    await self._post(self._body([int(self._tokenizer.eos_token_id)], Options(max_new_tokens=1)))
                self._progressed = time.monotonic()
                return True
            return await self._generated() > before
        except ServingError:
            return False

    async def _generated(self) -> float:
        """Tokens generated since the server started, from its metrics."""
        lines = (await self._get("/metrics", timeout=2.0)).text.splitlines()
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
        body = {
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
        return body

    async def _get(self, path: str, timeout: float = CONNECT_SECONDS) -> httpx.Response:
        assert self._client is not None  # noqa: S101
        return await self._send(self._client.build_request("GET", path, timeout=timeout))

    async def _post(self, body: dict[str, Any], stream: bool = False) -> httpx.Response:
        assert self._client is not None  # noqa: S101
        return await self._send(self._client.build_request("POST", "/v1/completions", json=body), stream)

    async def _send(self, request: httpx.Request, stream: bool = False) -> httpx.Response:
        """A successful reply, its body read unless it is streamed."""
        assert self._client is not None  # noqa: S101
        try:
            async with asyncio.timeout(self._timeout):
                for attempt in range(RETRIES + 1):
                    try:
                        reply = await self._client.send(request, stream=stream)
                        break
                    except (httpx.ConnectError, httpx.ConnectTimeout):
                        if attempt == RETRIES:
                            raise
                        await asyncio.sleep(0.1 * 2**attempt)
                if reply.is_success:
                    return reply
                await reply.aread()
        except TimeoutError as error:
            raise EngineTimeout(f"vLLM did not answer within {self._timeout:g} s") from error
        except httpx.HTTPError as error:
            raise _explained(error) from error
        raise _refusal(reply)


async def _events(reply: httpx.Response) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON objects of a stream of server-sent events."""
    try:
        async for line in reply.aiter_lines():
            data = line.removeprefix("data:").strip()
            if not line.startswith("data:") or data == "[DONE]":
                continue
            event: dict[str, Any] = json.loads(data)
            if "error" in event:
                raise ServingError(f"vLLM failed on this request: {_message(event)}")
            yield event
    except httpx.HTTPError as error:
        raise _explained(error) from error
    finally:
        await reply.aclose()


def _explained(error: httpx.HTTPError) -> ServingError:
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return EngineTimeout("vLLM did not answer in time")
    return EngineDead(f"vLLM cannot be reached ({type(error).__name__}: {error})")


def _refusal(reply: httpx.Response) -> ServingError:
    try:
        said = _message(reply.json())
    except ValueError:
        said = reply.text[:200]
    if reply.status_code in (429, 503):
        return EngineBusy(f"vLLM is busy: {said}")
    if reply.status_code in (400, 404, 413, 422):
        return RequestError(f"vLLM refuses this request: {said}")
    return EngineDead(f"vLLM answers with {reply.status_code}: {said}")


def _message(body: Any) -> str:
    error = body.get("error", body) if isinstance(body, dict) else body
    return " ".join(str(error.get("message", error) if isinstance(error, dict) else error).split())[:300]
