"""A file, or the server's database, as CREATE TABLE statements to ask about."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from text2sql.errors import DatabaseError, DataError, SqlError
from text2sql.serving.depends import Asks, Server
from text2sql.serving.intake import gone, read_body, slow
from text2sql.serving.messages import Column, SchemaResponse, TableShape
from text2sql.serving.problems import ASKING, Problem, documented
from text2sql.serving.schemas import schema_in
from text2sql.serving.service import Service
from text2sql.serving.streams import unless_gone
from text2sql.sql.schema import parse_schema

router = APIRouter(tags=["schema"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "string", "format": "binary"}},
    }
}


@router.get("/schema", response_model=SchemaResponse, responses=documented((401, 404, 429, 503)))
async def database_schema(caller: Asks, service: Server) -> Response:
    """The schema of the server's database, where it has one."""
    caller.spend()
    shape = await asyncio.to_thread(_shape, await service.described())  # thousands of tables take a while
    return JSONResponse(shape.model_dump())


@router.post(
    "/schema",
    response_model=SchemaResponse,
    responses=documented(ASKING),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": _FORM, "application/octet-stream": _BINARY},
        }
    },
)
async def schema_of_file(
    request: Request,
    caller: Asks,
    service: Server,
    name: Annotated[str, Query(max_length=200, description="The file's name, for a raw body: shop.csv")] = "",
) -> Response:
    """Read the schema out of a .sql, .csv or SQLite file; what it is shows in its first bytes and its name."""
    caller.spend()
    with service.uploads.take():
        content, name = await _received(request, service, name)

        async def work() -> SchemaResponse:
            async with service.work():
                return await _schema(service, content, name)

        return JSONResponse((await unless_gone(request, work())).model_dump())


async def _received(request: Request, service: Service, name: str) -> tuple[bytes, str]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("application/json", "application/x-www-form-urlencoded"):
        raise Problem(415, "unsupported_type", "send the file as multipart/form-data or application/octet-stream")
    seconds = service.settings.body_timeout
    if kind != "multipart/form-data":
        return await read_body(request, seconds), name
    try:
        async with asyncio.timeout(seconds), request.form(max_files=1, max_fields=4) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise Problem(422, "invalid_fields", "file: the form has no such file", param="file")
            return await file.read(), file.filename or name
    except TimeoutError:
        raise slow(seconds) from None
    except ClientDisconnect:
        raise gone() from None
    except HTTPException:
        raise Problem(400, "invalid_form", "the form cannot be read") from None


async def _schema(service: Service, content: bytes, name: str) -> SchemaResponse:
    try:
        return await asyncio.to_thread(_shape, await schema_in(service, content, name))
    except (SqlError, DataError, DatabaseError) as error:
        raise Problem(422, "schema_unusable", str(error)) from None


def _shape(text: str) -> SchemaResponse:
    tables = [
        TableShape(name=table.name, columns=[Column(name=c.name, type=c.type or "") for c in table.columns])
        for table in (parse_schema(text).tables if text.strip() else ())
    ]
    return SchemaResponse(schema_text=text, tables=tables)
