"""The outermost layer: a request's ID, its headers, its line in the log, its place in the metrics."""

from __future__ import annotations

import logging
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse

from text2sql.serving.connection import VERSION_HEADER
from text2sql.serving.problems import CLIENT_GONE, Problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from text2sql.serving.messages import Usage
    from text2sql.serving.metrics import Metrics

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds, while it starts several times a second; logged at level debug."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass
class Record:
    """What is told of a request when it is over."""

    request_id: str
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    codes: list[str] = field(default_factory=list)
    """The errors', of a stream and of a batch's questions too, whose status was 200."""
    told: dict[str, Any] = field(default_factory=dict)
    """More for the log; nothing of the users'."""
    cache_salt: str | None = None
    """The key's, for Options.cache_salt."""

    def spent(self, usage: Usage) -> None:
        """A question was answered, with so many tokens."""
        for name, value in (usage.model_dump() | {"questions": 1}).items():
            self.told[name] = self.told.get(name, 0) + value

    def failed(self, problem: Problem) -> None:
        """It ends in an error, or its stream, or a question of its batch does."""
        self.codes.append(problem.code)
        if problem.cause:
            self.told["cause"] = problem.cause

    @property
    def milliseconds(self) -> float:
        return round((time.perf_counter() - self.started) * 1000, 1)


def record_of(request: Request) -> Record:
    """The record of a request under way."""
    record: Record = request.state.record
    return record


class Observe:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, metrics: Metrics, version: str | None = None) -> None:
        self._app, self._metrics = app, metrics
        self._headers = HEADERS | ({VERSION_HEADER: version} if version else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        record = Record(asked if _REQUEST_ID.fullmatch(asked) else secrets.token_hex(16))
        scope.setdefault("state", {})["record"] = record
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=record.request_id)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = record.request_id
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            logger.exception("a fault of the server")
            record.codes = record.codes or ["internal_error"]
            if not record.status:
                problem = Problem(500, "internal_error", "a fault of the server; its log has the request ID")
                await JSONResponse(problem.to_dict(), 500)(scope, receive, send_with_headers)
        finally:
            self._finish(scope, record)

    def _finish(self, scope: Scope, record: Record) -> None:
        route = getattr(scope.get("route"), "path", None) or "unmatched"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        status = record.status or CLIENT_GONE
        milliseconds = record.milliseconds
        self._metrics.requests.labels(route, method, status).inc()
        self._metrics.seconds.labels(route).observe(milliseconds / 1000)
        for code in record.codes:
            self._metrics.rejects.labels(code).inc()
        logger.log(
            logging.DEBUG if route in _QUIET and (status < 400 or status == 503) else logging.INFO,
            "request",
            extra={"method": method, "route": route, "status": status, "ms": milliseconds}
            | ({"code": record.codes[-1]} if record.codes else {})
            | record.told,
        )
