"""What each route asks for by itself: who is asking, and what was sent. No path decides over that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from text2sql.serving.auth import Key, Keys
from text2sql.serving.intake import M, read_json
from text2sql.serving.limits import RateLimits
from text2sql.serving.observe import Record, record_of
from text2sql.serving.problems import Problem
from text2sql.serving.service import Service

_bearer = HTTPBearer(auto_error=False, scheme_name="Bearer", description="An API key.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="X-API-Key", description="An API key.")


class Caller:
    """Who asks: a key's owner, or an address where no keys are asked for."""

    def __init__(self, limits: RateLimits, who: str, rate: str | None) -> None:
        self._limits, self._who, self._rate = limits, who, rate

    def spend(self, questions: int = 1) -> None:
        """Count questions against the rate. Raises Problem: 429."""
        self._limits.spend(self._who, questions, self._rate)


def service_of(request: Request) -> Service:
    """What the routes share."""
    service: Service = request.app.state.service
    return service


async def caller(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    header: Annotated[str | None, Depends(_header)],
) -> Caller:
    """The owner of the key that came with a request.

    Raises:
        Problem: 401, before a byte of the body is read.
    """
    keys: Keys | None = request.app.state.keys
    limits: RateLimits = request.app.state.rate_limits
    if keys is None:
        return Caller(limits, f"address {request.client.host if request.client else ''}", None)
    sent = bearer.credentials if bearer else header
    if not sent:
        raise Problem(401, "missing_api_key", "give an API key: Authorization: Bearer KEY")
    key: Key | None = keys.find(sent)
    if key is None:
        raise Problem(401, "invalid_api_key", "the API key is not one of this server's")
    record = record_of(request)
    record.told |= {"key": key.id, "key_name": key.name}
    record.cache_salt = key.cache_salt
    return Caller(limits, f"key {key.id}", key.rate)


async def _service(request: Request) -> Service:
    return service_of(request)


async def _record(request: Request) -> Record:
    return record_of(request)


# All of them coroutines: FastAPI sends plain functions to a thread.
Asks = Annotated[Caller, Depends(caller)]
Server = Annotated[Service, Depends(_service)]
Told = Annotated[Record, Depends(_record)]


def sent(model: type[M]) -> Any:
    """Dependency: the body as this model, read after the caller is known."""

    async def read(request: Request, _: Asks) -> M:
        settings = service_of(request).settings
        return await read_json(request, model, settings.body_timeout, settings.max_json_depth)

    reader: Callable[..., Awaitable[M]] = read
    return Depends(reader)


def body_of(model: str) -> dict[str, Any]:
    """`openapi_extra` of a route with such a body; its schema is added to the document by the app."""
    reference = {"$ref": f"#/components/schemas/{model}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}
