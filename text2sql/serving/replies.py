"""The guard's answer as the API's response, in the dialect asked for."""

from __future__ import annotations

from collections.abc import Sequence

from text2sql.errors import SqlError
from text2sql.serving.answering import Answer
from text2sql.serving.messages import Candidate, Fault, GenerateResponse, Result, Usage
from text2sql.sql.objections import Reason
from text2sql.sql.render import render_sql
from text2sql.sql.schema import parse_schema


def to_response(found: Answer, dialect: str, schema_text: str) -> GenerateResponse:
    """The answer written in the dialect asked for; what cannot be is not valid, and stays as it was."""
    schema = parse_schema(schema_text) if dialect != "sqlite" else None

    def written(sql: str, valid: bool, reasons: Sequence[Reason]) -> Candidate:
        said = [Fault(code=reason.code, message=reason.message) for reason in reasons]
        if valid and schema is not None:
            try:
                sql = render_sql(sql, dialect, schema)
            except SqlError as error:
                return Candidate(sql=sql, valid=False, reasons=[Fault(code="not_renderable", message=str(error))])
        return Candidate(sql=sql, valid=valid, reasons=said)

    chosen = written(found.sql, found.valid, found.reasons)
    return GenerateResponse(
        sql=chosen.sql,
        valid=chosen.valid,
        reasons=chosen.reasons,
        candidates=[written(one.sql, one.valid, one.reasons) for one in found.candidates],
        repaired=found.repaired,
        dialect=dialect if chosen.valid else "sqlite",
        result=Result(**found.result.to_dict()) if found.result is not None else None,
        model="",
        latency_ms=0.0,
        usage=Usage(),
        request_id="",
    )
