"""The FastAPI app: routes, layers, and what happens when it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from text2sql import __version__
from text2sql.errors import Text2SQLError
from text2sql.serving import generate, openai, operations, uploads
from text2sql.serving.auth import Keys
from text2sql.serving.chat import ChatRequest
from text2sql.serving.engine import Engine
from text2sql.serving.intake import LOOPBACK, Intake
from text2sql.serving.limits import RateLimits
from text2sql.serving.messages import BatchRequest, GenerateRequest
from text2sql.serving.observe import Observe, record_of
from text2sql.serving.problems import Problem, invalid_fields, problem_of
from text2sql.serving.recipe import Served
from text2sql.serving.service import Service
from text2sql.serving.settings import ServerSettings

logger = logging.getLogger(__name__)

_CODES = {404: "not_found", 405: "method_not_allowed"}
_STATUS_WORDS = {404: "there is nothing at this path", 405: "this path does not take that method"}
ABOUT = "Questions in plain language to SQL that is checked before it leaves."


def create_app(
    settings: ServerSettings, engine: Engine | Served, on_failure: Callable[[Text2SQLError], None] | None = None
) -> FastAPI:
    """The app before it starts; nothing is loaded yet.

    Args:
        engine: with its model's recipe, or alone, and then it is asked with the default prompt.
        on_failure: called when the engine does not start.

    Raises:
        ConfigError: the key file cannot be used.
    """
    service = Service(settings, engine if isinstance(engine, Served) else Served(engine))
    app = FastAPI(
        title="text2sql", version=__version__, description=ABOUT, docs_url=None, redoc_url=None,
        lifespan=lambda _: _lifespan(service, on_failure), redirect_slashes=False,
    )  # fmt: skip
    app.state.service = service
    app.state.keys = Keys(settings.api_keys) if settings.api_keys else None
    app.state.rate_limits = RateLimits(settings.rate_limit)
    for part in (generate, openai, uploads, operations):
        app.include_router(part.router)
    app.mount("/static", StaticFiles(directory=operations.PAGE), name="static")
    for kind in (Problem, Text2SQLError, TimeoutError):
        app.add_exception_handler(kind, _told)
    app.add_exception_handler(HTTPException, _told_http)
    app.add_exception_handler(RequestValidationError, _told_fields)
    private = app.state.keys is None and settings.on_loopback
    hosts = settings.allowed_hosts or (LOOPBACK | {settings.host} if private else ())  # it may be another 127.…
    limits = {"": settings.max_body_bytes, "/schema": settings.max_upload_bytes}
    app.add_middleware(Intake, hosts=hosts, limits=limits)
    app.add_middleware(Observe, metrics=service.metrics, version=settings.model_version)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


@contextlib.asynccontextmanager
async def _lifespan(service: Service, on_failure: Callable[[Text2SQLError], None] | None) -> AsyncIterator[None]:
    """The guard first; the model loads while health probes are answered already."""

    async def load() -> None:
        try:
            await service.start()
        except Text2SQLError as error:
            logger.error("the model could not be loaded: %s", error, exc_info=error.__cause__)
            if on_failure:
                on_failure(error)

    async with service.guard:
        loading = asyncio.create_task(load())
        try:
            yield
        finally:
            service.draining = True
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            await service.served.engine.stop()


async def _told(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    if problem is None:
        raise error
    record_of(request).failed(problem)
    return JSONResponse(problem.to_dict(), problem.status, problem.headers)


async def _told_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
    status = error.status_code
    problem = Problem(status, _CODES.get(status, "invalid_request"), _STATUS_WORDS.get(status, str(error.detail)))
    problem.headers |= error.headers or {}
    return await _told(request, problem)


async def _told_fields(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    return await _told(request, invalid_fields(error))


def _document(app: FastAPI) -> dict[str, Any]:
    """FastAPI's, with the bodies that the routes read by themselves, once for each app."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _, bodies = models_json_schema(
            [(model, "validation") for model in (GenerateRequest, BatchRequest, ChatRequest)],
            ref_template="#/components/schemas/{model}",
        )
        schemas = document["components"]["schemas"]
        for name, schema in bodies["$defs"].items():
            if schemas.setdefault(name, schema) != schema:
                raise AssertionError(f"two models are called {name}")
        app.openapi_schema = json.loads(json.dumps(document))
    return app.openapi_schema
