"""What operators and browsers ask for, without a key: health, metrics, the page, the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response

from text2sql.serving.depends import Server
from text2sql.serving.messages import Status
from text2sql.serving.problems import Problem, documented
from text2sql.serving.service import Service

PAGE = Path(__file__).parent / "page"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

router = APIRouter(tags=["operations"])


@router.get("/healthz", response_model=Status)
async def healthz(service: Server) -> Response:
    """Whether the process lives; restart it when it does not."""
    return JSONResponse(_status(service))


@router.get("/readyz", response_model=Status, responses=documented((503,)))
async def readyz(service: Server) -> Response:
    """Whether the model is loaded and gets on with its work; send no questions while it does not."""
    if why := await service.unready():
        raise Problem(503, "not_ready", why, retry_after=5)
    return JSONResponse(_status(service))


def _status(service: Service) -> dict[str, Any]:
    settings = service.settings
    said = Status(
        status="ok",
        model=service.model,
        database=settings.database is not None,
        keys=settings.api_keys is not None,
    )
    return said.model_dump()


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {METRICS_TYPE: {"schema": {"type": "string"}}}, "description": "Prometheus' text."}},
)
async def metrics(service: Server) -> Response:
    """Requests, latency, tokens, queue, batch size, rejects, for Prometheus."""
    return Response(service.metrics.text(), headers={"Content-Type": METRICS_TYPE})


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """The OpenAPI document as a page."""
    from text2sql.serving.docs import render_docs

    return HTMLResponse(render_docs(request.app.openapi()))


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """The page."""
    return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})
