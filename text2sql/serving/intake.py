"""What comes in: its host, its length, its time, its JSON. Checked before anything is made of it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from text2sql.serving.problems import CLIENT_GONE, Problem, invalid_fields

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

M = TypeVar("M", bound=BaseModel)

MAX_CONTAINERS = 10_000
"""Objects and arrays in a body."""
_DISCARDED_BYTES = 16 << 20
_DISCARD_SECONDS = 2.0
_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?", re.ASCII)
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89abAB-Fc-f]")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Intake:
    """ASGI middleware: refuses odd hosts and long bodies, counting the bytes as they come.

    Args:
        hosts: names that are answered to; empty: every well-formed one. A web page of a stranger that has its own name
            resolve to this machine (DNS rebinding) sends its own.
        limits: bytes a path, by path; "" for all others.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], limits: dict[str, int]) -> None:
        self._app, self._hosts, self._limits = app, frozenset(host.lower() for host in hosts), limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        body = _Body(headers, receive, self._limits.get(scope["path"], self._limits[""]))

        async def send_and_close(message: Message) -> None:
            # A client that still sends would not read an answer after which the connection is reset.
            if message["type"] == "http.response.start" and not body.complete and not await body.discard():
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        try:
            self._check_host(headers.getlist("host"))
            body.check_length()
        except Problem as problem:
            scope["state"]["record"].failed(problem)
            await JSONResponse(problem.to_dict(), problem.status, problem.headers)(scope, receive, send_and_close)
            return
        await self._app(scope, body.receive, send_and_close)

    def _check_host(self, found: list[str]) -> None:
        match = _HOST.fullmatch(found[0]) if len(found) == 1 else None
        if match is None:
            raise Problem(400, "invalid_host", "the Host header is missing, doubled or malformed")
        if self._hosts and match["name"].lower() not in self._hosts:
            raise Problem(400, "invalid_host", "this server does not answer to that name; see allowed_hosts")


class _Body:
    """A request's body on its way in."""

    def __init__(self, headers: Headers, receive: Receive, limit: int) -> None:
        self._receive, self._limit, self._bytes = receive, limit, 0
        self._length = headers.get("content-length")
        self._waits = "expect" in headers
        self.complete = self._length in (None, "0") and "transfer-encoding" not in headers

    def check_length(self) -> None:
        if self._length is not None and not self._length.isdecimal():
            raise Problem(400, "invalid_length", "Content-Length is no number")
        if self._length is not None and int(self._length[:20]) > self._limit:
            raise self._too_long()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self.complete = self.complete or not message.get("more_body", False)
            if self._bytes > self._limit:
                raise self._too_long()
        return message

    async def discard(self) -> bool:
        """Read what is still to come, within bounds; whether that was all."""
        if self._waits:
            return False
        room = _DISCARDED_BYTES
        try:
            async with asyncio.timeout(_DISCARD_SECONDS):
                while not self.complete and room > 0:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        return False
                    room -= len(message.get("body", b""))
                    self.complete = not message.get("more_body", False)
        except TimeoutError:
            return False
        return self.complete

    def _too_long(self) -> Problem:
        return Problem(413, "too_long", f"the request has more than {self._limit} bytes; shorten it")


async def read_json(request: Request, model: type[M], seconds: float, depth: int) -> M:
    """The body as a model.

    Raises:
        Problem: 408, 413, 415, 400 for what is no JSON, 422 for fields that do not fit.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also what keeps other sites' pages out: a browser sends JSON across origins only when asked first.
        raise Problem(415, "unsupported_type", "send JSON, with Content-Type: application/json")
    return validated(model, parse_json(await read_body(request, seconds), depth))


async def read_body(request: Request, seconds: float) -> bytes:
    """The bytes.

    Raises:
        Problem: 408, 413, CLIENT_GONE
    """
    try:
        async with asyncio.timeout(seconds):
            return await request.body()
    except TimeoutError:
        raise slow(seconds) from None
    except ClientDisconnect:
        raise gone() from None


def slow(seconds: float) -> Problem:
    """The body takes too long."""
    return Problem(408, "slow_request", f"the request did not arrive in {seconds:g} s")


def gone() -> Problem:
    """Told to nobody but the log."""
    return Problem(CLIENT_GONE, "client_gone", "the client did not wait")


def parse_json(raw: bytes, depth: int) -> Any:
    """RFC 8259 to the letter, and no deeper than `depth`.

    Raises:
        Problem: 400
    """
    _check_depth(raw, depth)
    try:
        text = raw.decode("utf-8")
        found = json.loads(text, parse_constant=_no_constant)
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Problem(400, "invalid_json", "a text holds half of a surrogate pair") from None
    except (ValueError, RecursionError):
        raise Problem(400, "invalid_json", "the body is not JSON in UTF-8") from None
    return found


def validated(model: type[M], found: Any) -> M:
    """The model with these values.

    Raises:
        Problem: 422
    """
    try:
        return model.model_validate(found)
    except ValidationError as error:
        raise invalid_fields(error) from None


def _check_depth(raw: bytes, most: int) -> None:
    opened = raw.count(b"[") + raw.count(b"{")
    if opened <= most:
        return
    bare = _STRING.sub(b"", raw)
    if bare.count(b"[") + bare.count(b"{") > MAX_CONTAINERS:
        raise Problem(400, "invalid_json", f"the body holds more than {MAX_CONTAINERS} objects and arrays")
    depth = 0
    for match in re.finditer(rb"[\[\]{}]", bare):
        depth += 1 if match.group() in b"[{" else -1
        if depth > most:
            raise Problem(400, "invalid_json", f"the body nests deeper than {most} levels")


def _no_constant(name: str) -> None:
    raise ValueError(name)
