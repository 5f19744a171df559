"""OpenAI's chat messages, and the schema and the question in them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from text2sql.serving.messages import MAX_CANDIDATES, MAX_QUESTION_CHARS, MAX_TOKENS_ASKED, Usage
from text2sql.serving.problems import Problem
from text2sql.sql.schema import MAX_CONTEXT_CHARS

_CREATE = re.compile(r"\bCREATE\s+(?:TEMP(?:ORARY)?\s+)?TABLE\b", re.IGNORECASE)
# A comment that nobody closes goes on to the end: were each of many such looked for anew, the time would be quadratic.
_PIECE = re.compile(r"'[^']*+'|\"[^\"]*+\"|`[^`]*+`|--[^\n]*+|/\*.*?(?:\*/|\Z)|[()]", re.DOTALL)
_REST = re.compile(r"(?:[^\S\n]*(?:STRICT|WITHOUT\s+ROWID)\b)?(?:[^\S\n]*;)?", re.IGNORECASE)


class Chat(BaseModel):
    """Unknown fields are ignored, as OpenAI's clients expect."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True, protected_namespaces=())


class TextPart(Chat):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(Chat):
    """A turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None
    """None in an assistant's alone: what was withheld is sent back so, with the rest of a conversation."""

    @model_validator(mode="after")
    def _only_an_assistant_says_nothing(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a message of the {self.role} must have content")
        return self

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(Chat):
    """What a stream tells besides."""

    include_usage: bool = False


class ChatRequest(Chat):
    """The schema stands in the system message; the last user message is the question.

    Where the system message has none, or there is no such message, the schema may stand in the user's.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "merged_model",
                    "messages": [
                        {"role": "system", "content": "CREATE TABLE singer (name TEXT, age INTEGER)"},
                        {"role": "user", "content": "How many singers are older than 30?"},
                    ],
                }
            ]
        }
    )

    model: Annotated[str, Field(max_length=500)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=100)]
    n: Annotated[int, Field(ge=1, le=MAX_CANDIDATES)] | None = None
    """Completions; more than one needs a temperature."""
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS_ASKED)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS_ASKED)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0, the likeliest answer, unless said otherwise."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[Any] | None = None
    """Not supported, as are the following ones: 400 when they ask for anything."""
    functions: list[Any] | None = None
    """What `tools` were called before."""
    logprobs: bool | None = None
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None

    def question_and_schema(self) -> tuple[str, str]:
        """The last user message, and the schema from the system's messages or from that one.

        Raises:
            Problem: 400, one of them is missing or too long.
        """
        said = [message.text for message in self.messages if message.role == "user"]
        system = "\n".join(message.text for message in self.messages if message.role in ("system", "developer"))
        question = said[-1] if said else ""
        schema, _ = split_schema(system)
        if not schema:
            schema, rest = split_schema(question)
            # What may be a broken schema is the guard's to judge.
            schema, question = (schema, rest) if schema else (system, question)
        if not question.strip() or len(question) > MAX_QUESTION_CHARS:
            raise Problem(
                400,
                "invalid_messages",
                f"the last user message must be a question of at most {MAX_QUESTION_CHARS} characters",
                param="messages",
            )
        if not schema.strip() or len(schema) > MAX_CONTEXT_CHARS:
            raise Problem(
                400,
                "invalid_messages",
                f"put CREATE TABLE statements, at most {MAX_CONTEXT_CHARS} characters, into a system message",
                param="messages",
            )
        return question, schema

    def refuse_unsupported(self) -> None:
        """Raises:
        Problem: 400, for a wish that would be ignored.
        """
        kind = (self.response_format or {}).get("type", "text")
        for name, wish in (
            ("tools", self.tools),
            ("functions", self.functions),
            ("logprobs", self.logprobs),
            ("logit_bias", self.logit_bias),
            ("response_format", kind != "text"),
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
            ("n", self.stream and (self.n or 1) > 1),
        ):
            if wish:
                what = "several completions cannot be streamed" if name == "n" else f"{name} is not supported"
                raise Problem(400, "unsupported_parameter", f"{what}; leave it out", param=name)


def split_schema(text: str) -> tuple[str, str]:
    """The CREATE TABLE statements of a text, blanks between them as they are, and what else it says."""
    schema, rest, at = "", [], 0
    while match := _CREATE.search(text, at):
        end = _end_of_statement(text, match.end())
        if end is None:
            break
        between = text[at : match.start()]
        if schema:
            schema += between if between.isspace() else "\n"
        schema += text[match.start() : end]
        rest.append(between)
        at = end
    rest.append(text[at:])
    return schema, "\n".join(filter(None, (part.strip() for part in rest)))


def _end_of_statement(text: str, start: int) -> int | None:
    """Behind the bracket that closes the columns, and a semicolon; None where none does."""
    depth = 0
    for match in _PIECE.finditer(text, start):
        if match.group() == "(":
            depth += 1
        elif match.group() == ")":
            depth -= 1
            if depth <= 0:
                rest = _REST.match(text, match.end())
                return rest.end() if rest else match.end()
    return None


class Verdict(BaseModel):
    """Beside OpenAI's fields: what the guard says of a completion."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    valid: bool
    reasons: list[dict[str, str]]
    repaired: bool
    """Whether the model was asked again with the error; never in a stream."""


class AnswerMessage(BaseModel):
    """The completion; `refusal` instead of `content` where it would do more than read."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None


class Choice(BaseModel):
    """A completion."""

    index: int
    message: AnswerMessage
    finish_reason: Literal["stop", "length", "content_filter"]
    logprobs: None = None
    text2sql: Verdict


class ChatCompletion(BaseModel):
    """OpenAI's object."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class ModelObject(BaseModel):
    """OpenAI's object."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "text2sql"


class ModelList(BaseModel):
    """OpenAI's object."""

    object: Literal["list"] = "list"
    data: list[ModelObject]
