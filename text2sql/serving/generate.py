"""POST /generate and /generate/batch: a question and a schema in, checked SQL out."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from text2sql.serving.asking import together
from text2sql.serving.depends import Asks, Server, Told, body_of, sent
from text2sql.serving.messages import (
    BatchError,
    BatchRequest,
    BatchResponse,
    GenerateRequest,
    GenerateResponse,
    Question,
)
from text2sql.serving.observe import Record
from text2sql.serving.problems import ASKING, Problem, documented, problem_of
from text2sql.serving.service import Service
from text2sql.serving.streams import EVENTS, Send, event, event_stream, unless_gone

router = APIRouter(tags=["generate"])

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": EVENTS,
        "description": "The answer; with `stream`, events `token`, then `answer` or `error`.",
    }
}


@router.post(
    "/generate",
    response_model=GenerateResponse,
    response_model_exclude_none=True,
    responses=_STREAM | documented(ASKING),
    openapi_extra=body_of("GenerateRequest"),
)
async def generate(
    request: Request,
    caller: Asks,
    asked: Annotated[GenerateRequest, sent(GenerateRequest)],
    service: Server,
    record: Told,
) -> Response:
    """Answer one question with SQL that passed the guard, or say what is wrong with it."""
    caller.spend()
    if asked.stream:
        return await event_stream(
            request, record, lambda send: _tell(service, asked, record, send), lambda p: event(p.to_dict(), "error")
        )

    async def work() -> GenerateResponse:
        async with service.work():
            return await service.answer(asked, record)

    return JSONResponse(shown(await unless_gone(request, work())))


@router.post(
    "/generate/batch",
    response_model=BatchResponse,
    response_model_exclude_none=True,
    responses=documented(ASKING),
    openapi_extra=body_of("BatchRequest"),
)
async def generate_batch(
    request: Request,
    caller: Asks,
    asked: Annotated[BatchRequest, sent(BatchRequest)],
    service: Server,
    record: Told,
) -> Response:
    """Answer several questions together; one that fails leaves the others alone."""
    count = len(asked.requests)
    if count > service.settings.max_batch:
        message = f"at most {service.settings.max_batch} questions are taken at once, not {count}"
        raise Problem(422, "invalid_fields", message, param="requests")
    caller.spend(count)

    async def work() -> list[dict[str, Any]]:
        async with service.work(count):
            return await together([_one(service, question, record) for question in asked.requests])

    return JSONResponse({"responses": await unless_gone(request, work())})


async def _tell(service: Service, asked: GenerateRequest, record: Record, send: Send) -> None:
    async with service.work():
        response = await service.answer(asked, record, lambda text: send(event({"text": text}, "token")))
    send(event(shown(response), "answer"))


async def _one(service: Service, question: Question, record: Record) -> dict[str, Any]:
    try:
        return shown(await service.answer(question, record))
    except Exception as error:
        problem = problem_of(error)
        if problem is None:
            raise
        record.failed(problem)
        return BatchError.model_validate(problem.to_dict()).model_dump(mode="json", exclude_none=True)


def shown(response: GenerateResponse) -> dict[str, Any]:
    """As JSON; without `result` where nothing ran."""
    said = response.model_dump(mode="json")
    if said["result"] is None:
        del said["result"]
    return said
