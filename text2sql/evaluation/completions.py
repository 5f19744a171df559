"""OpenAI's completions protocol from the client's side: a busy server is asked again, a failure is told in one line."""

from __future__ import annotations

import email.utils
import json
import random
import threading
import time
from collections.abc import Iterable
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, Field, ValidationError

from text2sql.errors import ModelError

BUSY = (429, 502, 503, 504)
"""Statuses that pass: too many requests, and a server that is not ready or not there behind its gateway."""
LONGEST_PAUSE = 30.0
"""Seconds; a longer Retry-After is cut to it."""


class Card(BaseModel):
    """A served model; `max_model_len` is vLLM's word for its context in tokens."""

    id: str
    owned_by: str | None = None
    max_model_len: int | None = None


class Models(BaseModel):
    data: list[Card]


class Likelihood(BaseModel):
    logprob: float


class Choice(BaseModel):
    """One answer; the ids and likelihoods are vLLM's, and only where a request asks for them."""

    text: str
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    """With the end token, where one ended it."""
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[dict[str, Likelihood] | None] | None = None
    """By token id; the first token, which nothing comes before, has None."""


class Completion(BaseModel):
    choices: list[Choice] = Field(min_length=1)


M = TypeVar("M", bound=BaseModel)


class Refusal(ModelError):
    """An answer of the server that is not what was asked for."""

    too_long = False
    """Because the prompt does not fit its context."""


class Server:
    """The HTTP side: who is served there, and requests that are sent again while the server is busy."""

    def __init__(self, url: str, api_key: str | None, timeout: float, patience: float, connections: int) -> None:
        try:
            address = httpx.URL(url.rstrip("/").removesuffix("/v1").rstrip("/") + "/v1/")
        except httpx.InvalidURL as error:
            raise ModelError(f"server address {url!r}: {error}; write it as http://127.0.0.1:8000") from None
        if address.scheme not in ("http", "https") or not address.host:
            raise ModelError(f"server address {url!r}: write it as http://127.0.0.1:8000")
        self.url = str(address.copy_with(userinfo=b"", query=None)).removesuffix("/v1/")
        self._timeout, self._patience = timeout, patience
        self._client = httpx.Client(
            base_url=address,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0), pool=None),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )
        self.stopping = threading.Event()
        """Once set, no request is sent again, by any thread."""

    def close(self) -> None:
        self._client.close()

    def card(self, model: str | None) -> Card:
        """Of the named model, or of the only one.

        Raises:
            ModelError: there is no server, it does not serve the model, or serves several and none is named.
        """
        cards = {card.id: card for card in self._send("GET", "models", None, Models, first=True).data}
        if model is None and len(cards) == 1:
            return next(iter(cards.values()))
        if model is None:
            raise ModelError(f"{self.url} serves {_listed(cards)}; name one of them")
        if model not in cards:
            raise ModelError(f"{self.url} does not serve {model!r} but {_listed(cards)}")
        return cards[model]

    def complete(self, body: dict[str, Any]) -> Choice:
        """The first choice.

        Raises:
            Refusal: the server says no, or goes on to be busy for longer than `patience`.
            ModelError: it is not there for as long, or answers with something else.
        """
        return self._send("POST", "completions", body, Completion).choices[0]

    def _send(self, method: str, path: str, body: dict[str, Any] | None, answer: type[M], first: bool = False) -> M:
        """One request, repeated while the server is busy or away; on first contact away means that it is not there."""
        deadline, pause = time.monotonic() + self._patience, 0.25
        while True:
            try:
                response = self._client.request(method, path, json=body)
            except httpx.TransportError as error:
                failure, wait = self._unreachable(error), pause
                if first:
                    raise failure from error
            else:
                if response.is_success:
                    return self._read(response, answer)
                failure, wait = self._refused(response), _asked_pause(response) or pause
                if response.status_code not in BUSY:
                    raise failure
            wait = min(wait, LONGEST_PAUSE) * random.uniform(1.0, 1.25)  # not all threads at once
            if time.monotonic() + wait > deadline or self.stopping.wait(wait):
                raise failure
            pause *= 2

    def _read(self, response: httpx.Response, answer: type[M]) -> M:
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            begin = response.text[:80]
            raise ModelError(
                f"{self.url} does not speak OpenAI's protocol: {reason} in {begin!r}; check the address"
            ) from None

    def _unreachable(self, error: httpx.TransportError) -> ModelError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ModelError(f"no server answers at {self.url} ({error}); start it, or correct the address")
        if isinstance(error, httpx.TimeoutException):
            return ModelError(
                f"{self.url} gave no answer within {self._timeout:g} s; allow more time, or fewer requests at once"
            )
        return ModelError(f"{self.url} breaks off the connection ({error}); its log may say why")

    def _refused(self, response: httpx.Response) -> Refusal:
        status, reason = response.status_code, _reason(response)
        told = f"{status} {response.reason_phrase}".strip() + (f": {reason}" if reason else "")
        remedy = {
            401: "set OPENAI_API_KEY to a key of that server",
            403: "set OPENAI_API_KEY to a key that may use it",
            404: "check the address; it ends before /v1",
            429: "ask with fewer requests at once",
        }.get(status, "its log may say why" if status >= 500 else "")
        verb = "fails" if status >= 500 else "refuses"
        refusal = Refusal(f"{self.url} {verb} ({told})" + (f"; {remedy}" if remedy else ""))
        # vLLM in words, OpenAI by a code; neither has a status of its own for it
        refusal.too_long = status == 400 and any(
            mark in response.text for mark in ("maximum context length", "context_length_exceeded")
        )
        return refusal


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "no model"


def _reason(response: httpx.Response) -> str:
    """The error's message in one line, by OpenAI's shape, FastAPI's, or as it is."""
    try:
        told = json.loads(response.content)
        told = told.get("error") or told.get("detail") or told
        told = told.get("message", told) if isinstance(told, dict) else told
    except (ValueError, AttributeError):
        told = response.text
    return " ".join(str(told).split())[:200]


def _asked_pause(response: httpx.Response) -> float | None:
    """Seconds that Retry-After asks for, written as a number or as a date (RFC 9110, 10.2.3)."""
    asked = response.headers.get("Retry-After", "")
    if asked.isdecimal():
        return float(asked)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    except ValueError:
        return None
