"""Everything that goes wrong, in one shape, OpenAI's: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from text2sql.errors import (
    DatabaseError,
    DataError,
    EngineBusy,
    EngineDead,
    EngineTimeout,
    GuardBusy,
    RequestError,
    ServingError,
    SqlError,
    Text2SQLError,
)

if TYPE_CHECKING:
    from fastapi.exceptions import RequestValidationError

CLIENT_GONE = 499
"""nginx's status for a client that did not wait; nobody receives it, the log and the metrics do."""

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}


_FAILURES: tuple[tuple[type[Text2SQLError], int, str, str, float], ...] = (
    (EngineBusy, 429, "queue_full", "the queue is full; ask again later", 1),
    (GuardBusy, 503, "guard_busy", "the guard is busy; ask again later", 2),
    (EngineDead, 503, "engine_unavailable", "the model does not answer now; ask again later", 5),
    (ServingError, 503, "engine_failed", "the model failed on this request; its server's log says more", 1),
    (DatabaseError, 503, "database_unavailable", "the database does not answer now; ask again later", 5),
    (Text2SQLError, 503, "unavailable", "the server cannot do this now; its log says more", 5),
)
"""What is no fault of the request: status, code, words and seconds to wait. Hosts, paths and what an engine or a driver
said stay inside."""


class ErrorDetail(BaseModel):
    """One field at fault."""

    param: str
    message: str


class ErrorObject(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str
    details: list[ErrorDetail] | None = None
    """With 422: every field at fault."""


class ErrorBody(BaseModel):
    """The body of every answer that is none."""

    error: ErrorObject


class Problem(Exception):
    """An answer with an error status; `cause` is more for the log, and for nobody outside."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        details: list[ErrorDetail] | None = None,
        cause: str = "",
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.cause = status, code, cause
        kind = _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")
        self.body = ErrorBody(error=ErrorObject(message=message, type=kind, param=param, code=code, details=details))
        self.headers: dict[str, str] = {}
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(math.ceil(retry_after), 1))
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"

    def to_dict(self) -> dict[str, Any]:
        """The body, without what is not said."""
        said = self.body.model_dump(mode="json")
        if said["error"]["details"] is None:
            del said["error"]["details"]
        return said


def problem_of(error: BaseException) -> Problem | None:
    """The problem that an exception is; None for a fault of ours."""
    if isinstance(error, Problem):
        return error
    message = str(error)
    if isinstance(error, RequestError):
        return Problem(400, "invalid_request", message)
    if isinstance(error, TimeoutError | EngineTimeout):
        return Problem(504, "timeout", message or "no answer came in time; ask for less, or later")
    if isinstance(error, SqlError | DataError):
        return Problem(400, "unusable", message)
    for kind, status, code, words, seconds in _FAILURES:
        if isinstance(error, kind):
            return Problem(status, code, words, retry_after=getattr(error, "retry_after", seconds), cause=message)
    return None


def invalid_fields(error: ValidationError | RequestValidationError) -> Problem:
    """Every field that does not fit; values are the users' and are not repeated."""
    details = [
        ErrorDetail(
            param=".".join(str(part) for part in found["loc"])[:200] or "body",
            message=found["msg"].removeprefix("Value error, ")[:300],
        )
        for found in error.errors()[:20]
    ]
    first = details[0]
    return Problem(422, "invalid_fields", f"{first.param}: {first.message}", param=first.param, details=details)


_DOCUMENTED = {
    400: "The request cannot be read, or asks for what cannot be done.",
    401: "No key, or not one of ours.",
    404: "There is no such thing.",
    405: "Not with this method.",
    408: "The request did not arrive in time.",
    413: "The request is too long.",
    415: "The body is of another type.",
    422: "Fields are missing, unknown or out of bounds.",
    429: "The key's rate is used up, or the queue is full. Ask again after Retry-After seconds.",
    503: "The model is loading, gone or being exchanged, or the guard is busy. Ask again after Retry-After seconds.",
    504: "No answer came in time.",
}


def documented(statuses: Iterable[int]) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route for the OpenAPI document."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        found[status] = {"model": ErrorBody, "description": _DOCUMENTED[status]}
        if status in (429, 503):
            found[status]["headers"] = {
                "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
            }
    return found


ASKING = (400, 401, 408, 413, 415, 422, 429, 503, 504)
"""What any question can meet."""
