"""What our own routes take and give."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from text2sql.errors import SqlError
from text2sql.serving.problems import ErrorObject
from text2sql.sql.render import DIALECTS, dialect_named
from text2sql.sql.schema import MAX_CONTEXT_CHARS

MAX_QUESTION_CHARS = 4_000
MAX_CANDIDATES = 8
MAX_TOKENS_ASKED = 1_000_000
OTHER_NAMES = ("postgresql", "mssql", "sqlserver", "mariadb")
"""Names of dialects that render_sql understands too."""


class Message(BaseModel):
    """Unknown fields are errors: a misspelt one would be ignored otherwise."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class Question(Message):
    """A question about a schema."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "question": "How many singers are older than 30?",
                    "schema_text": "CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, age INTEGER)",
                }
            ]
        }
    )

    question: Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUESTION_CHARS, pattern=r"\S")]
    """In plain language."""
    schema_text: Annotated[str, StringConstraints(max_length=MAX_CONTEXT_CHARS)] = ""
    """CREATE TABLE statements; may be left out where the server has a database, whose own are taken then."""
    n: Annotated[int, Field(ge=1, le=MAX_CANDIDATES)] = 1
    """Candidates to choose from: the likeliest answer first, the others drawn."""
    dialect: Annotated[str, Field(json_schema_extra={"enum": sorted([*DIALECTS, *OTHER_NAMES])})] = "sqlite"
    """What to write the answer in."""
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS_ASKED)] | None = None
    """Longest answer; the server's own bound holds too."""
    execute: bool = False
    """Run the answer on the server's database, where it has one, and choose among the candidates by that."""

    @field_validator("dialect")
    @classmethod
    def _dialect_is_known(cls, name: str) -> str:
        try:
            dialect_named(name)
        except SqlError as error:
            raise ValueError(str(error)) from None
        return name


class GenerateRequest(Question):
    """A question, and whether to hear the answer as it grows."""

    stream: bool = False
    """Answer with server-sent events: `token` {"text"}, then `answer` or `error`."""


class BatchRequest(Message):
    """Several questions at once."""

    requests: Annotated[list[Question], Field(min_length=1, max_length=256)]
    """At most as many as the server allows (max_batch)."""


class Fault(BaseModel):
    """Why an answer is not valid."""

    code: str
    """One of the guard's codes, or not_renderable."""
    message: str


class Candidate(BaseModel):
    """One answer of the model."""

    sql: str
    valid: bool
    reasons: list[Fault]


class Result(BaseModel):
    """The answer's rows."""

    columns: list[str]
    rows: list[list[Any]]
    truncated: bool


class Usage(BaseModel):
    """Tokens, candidates and the repair included."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0

    def add(self, prompt: int, completion: int) -> None:
        """Count one prompt and what came of it."""
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        self.total_tokens += prompt + completion


class GenerateResponse(BaseModel):
    """The answer, and what the guard says of it."""

    sql: str
    valid: bool
    """One query that only reads, over names that the schema has, and that SQLite can plan."""
    reasons: list[Fault]
    candidates: list[Candidate]
    """All that were judged, in the order they were made; equal ones once."""
    repaired: bool
    """Whether the model was asked again with the error."""
    dialect: str
    """What `sql` is written in: the one asked for, or sqlite where that cannot be."""
    result: Result | None = None
    model: str
    latency_ms: float
    usage: Usage
    request_id: str


class BatchError(BaseModel):
    """What one question of a batch met."""

    error: ErrorObject


class BatchResponse(BaseModel):
    """An answer or an error for each question, in their order."""

    responses: list[GenerateResponse | BatchError]


class Column(BaseModel):
    """A column."""

    name: str
    type: str


class TableShape(BaseModel):
    """A table and its columns."""

    name: str
    columns: list[Column]


class SchemaResponse(BaseModel):
    """The schema in a file, or of the server's database."""

    schema_text: str
    tables: list[TableShape]


class Status(BaseModel):
    """That the server is well, and what it offers."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    status: Literal["ok"]
    model: str
    database: bool
    """Whether answers can be run on a database."""
    keys: bool
    """Whether an API key is asked for."""
