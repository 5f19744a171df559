"""OpenAI's routes: any of its clients can ask. Answers are made as for /generate; the guard's verdict stands beside.

A completion that fails is repaired once. One that would do more than read is withheld: `refusal` takes the place of
`content`, and the finish reason is `content_filter`. A stream has sent its words by then: it is not repaired, and ends
with the verdict and that reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from text2sql.serving.answering import Answer
from text2sql.serving.chat import (
    AnswerMessage,
    ChatCompletion,
    ChatRequest,
    Choice,
    ModelList,
    ModelObject,
    Verdict,
)
from text2sql.serving.depends import Asks, Server, Told, body_of, sent
from text2sql.serving.engine import FinishReason, Options
from text2sql.serving.messages import Usage
from text2sql.serving.observe import Record
from text2sql.serving.problems import ASKING, Problem, documented
from text2sql.serving.service import Service, tokens_allowed
from text2sql.serving.streams import EVENTS, Send, event, event_stream, unless_gone
from text2sql.sql.guard import Checked
from text2sql.sql.objections import Reason, reason

router = APIRouter(prefix="/v1", tags=["openai"])

_WITHHELD = frozenset({"not_one_statement", "not_read_only", "not_allowed", "function_not_allowed"})
"""Reasons for which a completion does not leave."""
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": EVENTS,
        "description": "The completion; with `stream`, OpenAI's chunks as events, then [DONE].",
    }
}


@router.get("/models", response_model=ModelList, responses=documented((401,)))
async def models(_: Asks, service: Server) -> Response:
    """The model that is served."""
    return JSONResponse(ModelList(data=[_model(service)]).model_dump())


@router.get("/models/{name:path}", response_model=ModelObject, responses=documented((401, 404, 422)))
async def model(name: str, _: Asks, service: Server) -> Response:
    """The model of that name."""
    _check_model(service, name)
    return JSONResponse(_model(service).model_dump())


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses=_STREAM | documented((*ASKING, 404)),
    openapi_extra=body_of("ChatRequest"),
)
async def chat_completions(
    request: Request, caller: Asks, asked: Annotated[ChatRequest, sent(ChatRequest)], service: Server, record: Told
) -> Response:
    """SQL for the last user message, over the tables of the system message."""
    _check_model(service, asked.model)
    asked.refuse_unsupported()
    question, schema = await asyncio.to_thread(asked.question_and_schema)  # a long text takes a while
    caller.spend()
    head = {"id": f"chatcmpl-{record.request_id}", "created": int(time.time()), "model": asked.model}
    if asked.stream:
        return await event_stream(
            request,
            record,
            lambda send: _chunks(service, asked, (question, schema), head, record, send),
            lambda problem: event(problem.to_dict()),
        )

    usage = Usage()

    async def work() -> list[tuple[Answer, FinishReason]]:
        async with service.work():
            return await service.complete(question, schema, _options(service, asked, record), usage, record)

    answers = await unless_gone(request, work())
    record.spent(usage)
    choices = [_choice(index, *one) for index, one in enumerate(answers)]
    return JSONResponse(ChatCompletion(**head, choices=choices, usage=usage).model_dump())


async def _chunks(
    service: Service,
    asked: ChatRequest,
    texts: tuple[str, str],
    head: dict[str, Any],
    record: Record,
    send: Send,
) -> None:
    question, schema = texts
    options = _options(service, asked, record)
    wants_usage = asked.stream_options is not None and asked.stream_options.include_usage
    more: dict[str, Any] = {"usage": None} if wants_usage else {}
    started = False

    def chunk(delta: dict[str, Any], finish: str | None = None, **also: Any) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, **also}
        send(event(head | {"object": "chat.completion.chunk", "choices": [choice]} | more))

    def tell(text: str) -> None:
        nonlocal started
        if not started:
            chunk({"role": "assistant", "content": ""})
            started = True
        chunk({"content": text})

    async with service.work():
        await service.usable(schema, "messages")
        done = await service.stream(service.prompt(schema, question), options, tell)
        service.metrics.generated([done])
        checked = _as_streamed(await service.guard.check(done.text, schema), done.text)
    service.count(checked.valid, checked.reasons, False, record)
    service.log_content(question, schema, checked.sql)
    if not started:
        chunk({"role": "assistant", "content": ""})
    refusal = _refusal(checked.reasons)
    chunk(
        {"refusal": refusal} if refusal else {},
        "content_filter" if refusal else _finish(done.finish_reason),
        text2sql=_verdict(checked).model_dump(),
    )
    usage = Usage()
    usage.add(done.prompt_tokens, done.completion_tokens)
    record.spent(usage)
    if wants_usage:
        send(event(head | {"object": "chat.completion.chunk", "choices": [], "usage": usage.model_dump()}))
    send(event("[DONE]"))


def _options(service: Service, asked: ChatRequest, record: Record) -> Options:
    """Raises:
    RequestError: the wishes contradict each other.
    """
    stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    most = tokens_allowed(service, asked.max_completion_tokens or asked.max_tokens)
    return Options(
        max_new_tokens=most,
        temperature=asked.temperature or 0.0,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        n=asked.n or 1,
        seed=None if asked.seed is None else asked.seed % 2**63,  # a client may draw it from all 64 bits
        stop=tuple(stop),
        cache_salt=record.cache_salt,
    )


def _choice(index: int, answer: Answer, finished: FinishReason) -> Choice:
    refusal = _refusal(answer.reasons)
    # What was found valid and nothing behind it; of an answer that was not, all of it.
    content = answer.sql if answer.valid else answer.text
    return Choice(
        index=index,
        message=AnswerMessage(content=None if refusal else content, refusal=refusal),
        finish_reason="content_filter" if refusal else _finish(finished),
        text2sql=_verdict(answer),
    )


def _as_streamed(checked: Checked, text: str) -> Checked:
    """A stream cannot be cut afterwards: one that went on behind its query is not valid as a whole."""
    if not checked.valid or text.strip().rstrip("; \n") == checked.sql.strip().rstrip("; \n"):
        return checked
    return Checked(
        checked.sql, (reason("not_one_statement", "the answer went on behind its query; run the query alone"),)
    )


def _refusal(reasons: Sequence[Reason]) -> str | None:
    withheld = [reason.message for reason in reasons if reason.code in _WITHHELD]
    return f"The answer was withheld: {'; '.join(withheld)}" if withheld else None


def _verdict(judged: Checked | Answer) -> Verdict:
    return Verdict(
        valid=judged.valid,
        reasons=[reason._asdict() for reason in judged.reasons],
        repaired=isinstance(judged, Answer) and judged.repaired,
    )


def _finish(reason: FinishReason) -> Literal["stop", "length"]:
    return "length" if reason == "length" else "stop"


def _model(service: Service) -> ModelObject:
    return ModelObject(id=service.model, created=service.created)


def _check_model(service: Service, name: str) -> None:
    if name != service.model:
        raise Problem(
            404, "model_not_found", f"there is no model of that name here; /v1/models lists it: {service.model}",
            param="model",
        )  # fmt: skip
