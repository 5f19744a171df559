"""What a new server is asked before it goes live: does it answer, and as the evaluated model did?

The questions are frozen test rows, and the answers those on which the gate's verdict rests. They travel the whole way:
HTTP, prompt, tokens, weights, guard. A server with another template, another tokenizer or other weights is found here.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from text2sql.errors import DeploymentError, ParseError
from text2sql.evaluation.types import subject_of
from text2sql.progress import progress
from text2sql.sql.normalise import normalise
from text2sql.sql.parse import MAX_QUERY_CHARS, first_statement

if TYPE_CHECKING:
    from text2sql.evaluation.types import Evaluation

Tell = Callable[[str], None]
"""Takes a line about what happens now."""

SMOKE_QUESTIONS = 3
ASKED_AT_ONCE = 8
PAUSE_SECONDS = 0.5
BUSY = (429, 503)
UNASKABLE = (400, 413, 422)
"""A row that the API takes from nobody, such as one whose schema no database can be built from."""
SHOWN_CHARS = 120


@dataclass(frozen=True)
class Question:
    """A test row, and what the evaluated model made of it."""

    question: str
    schema_text: str
    answer: str
    valid: bool
    """Whether that answer runs on the row's schema."""


@dataclass(frozen=True)
class Parity:
    """How a served model's answers compare with those of the evaluated one."""

    asked: int
    same: int
    skipped: int
    """Rows that the API does not take, and that the evaluated model did not answer validly either."""
    example: str = ""
    """The first difference, in one line."""

    @property
    def agreement(self) -> float:
        """Share of the same; 0 where nothing could be compared."""
        compared = self.asked - self.skipped
        return self.same / compared if compared else 0.0


def questions_of(evaluation: Evaluation, count: int) -> list[Question]:
    """At most `count` test rows, evenly spread over all of them."""
    rows, subject = evaluation.rows, subject_of(evaluation.systems)
    count = min(count, len(rows))
    return [
        Question(rows[i].question, rows[i].context, subject.predictions[i], subject.rows[i].valid)
        for i in (position * len(rows) // count for position in range(count))
    ]


def plain_http() -> ssl.SSLContext:
    """For clients of servers on loopback or in the cluster, which speak plain HTTP: certificates, which take a while to
    read, are not needed, and none is trusted."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Asker:
    """Asks a server over HTTP until `seconds` have passed.

    Where the server wants a key, OPENAI_API_KEY has it.

    Args:
        patient: ask again where it is not ready just now.
    """

    def __init__(self, address: str, seconds: float, patient: bool = True) -> None:
        self.address, self._seconds = address, seconds
        self._busy = BUSY if patient else BUSY[:1]
        self._deadline = time.monotonic() + seconds
        key = os.environ.get("OPENAI_API_KEY")
        self._client = httpx.Client(
            base_url=address,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            trust_env=False,
            verify=plain_http(),
        )

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def smoke(self, questions: Sequence[Question]) -> httpx.Response:
        """Ask a few; the last reply.

        Raises:
            DeploymentError: it does not answer, or calls an answer invalid that the evaluation ran.
        """
        asked = sorted(questions, key=lambda question: not question.valid)[:SMOKE_QUESTIONS]
        reply = self._ready()
        for question in asked:
            reply = self._ask(question)
            said = _json(reply)
            if reply.status_code in UNASKABLE and not question.valid:
                continue
            if not reply.is_success or not isinstance(said.get("sql"), str):
                raise DeploymentError(f"it does not answer a question ({_told(reply)})")
            if question.valid and said.get("valid") is not True:
                raise DeploymentError(
                    f"it calls {_cut(said['sql'])!r} invalid, its answer to {_cut(question.question)!r}, which the "
                    "evaluated model answered with SQL that ran"
                )
        return reply

    def compare(self, questions: Sequence[Question]) -> Parity:
        """Ask all of them, several at a time.

        Raises:
            DeploymentError: it fails to answer, or the time is over.
        """
        found = []
        with progress("asking it", len(questions)) as advance, ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            for reply in pool.map(self._first_answer, questions):
                found.append(reply)
                advance(1)
        same = skipped = 0
        example = ""
        for question, (answer, refusal) in zip(questions, found, strict=True):
            if answer is None and not question.valid:
                skipped += 1
            elif answer is not None and alike(question.answer, answer):
                same += 1
            else:
                example = example or f"{refusal or repr(_cut(answer or ''))} where it was {_cut(question.answer)!r}"
        return Parity(len(questions), same, skipped, example)

    def _first_answer(self, question: Question) -> tuple[str | None, str]:
        """Before any repair, as the evaluation takes it; None, and why, for a row that the API does not take."""
        reply = self._ask(question)
        if reply.status_code in UNASKABLE:
            return None, f"refused ({_told(reply)})"
        try:
            said = _json(reply)
            return str((said["candidates"] or [said])[0]["sql"]), ""
        except (KeyError, TypeError):
            raise DeploymentError(f"it does not answer a question ({_told(reply)})") from None

    def _ready(self) -> httpx.Response:
        reply = self._send("GET", "/readyz")
        if not reply.is_success:
            raise DeploymentError(f"it is not ready ({_told(reply)})")
        return reply

    def _ask(self, question: Question) -> httpx.Response:
        body = {"question": question.question, "schema_text": question.schema_text}
        return self._send("POST", "/generate", body)

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        while (left := self._deadline - time.monotonic()) > 0:
            try:
                reply = self._client.request(method, path, json=body, timeout=left)
            except httpx.TimeoutException:
                break
            except httpx.TransportError as error:
                raise DeploymentError(f"it breaks off the connection ({type(error).__name__})") from error
            if reply.status_code not in self._busy or not reply.headers.get("Retry-After", "").isdecimal():
                return reply
            time.sleep(min(PAUSE_SECONDS, max(left, 0.0)))
        raise DeploymentError(f"it has not answered the questions within {self._seconds:g} s (deploy.check_seconds)")


def alike(expected: str, answer: str) -> bool:
    """The same statement, or the same once both are normalised."""
    expected = first_statement(expected) if len(expected) <= MAX_QUERY_CHARS else ""
    if expected.strip() == answer.strip():
        return True
    try:
        return normalise(expected) == normalise(answer)
    except ParseError:
        return False


def _json(reply: httpx.Response) -> dict[str, Any]:
    try:
        found = reply.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _told(reply: httpx.Response) -> str:
    said = _json(reply).get("error")
    words = said.get("message") if isinstance(said, dict) else reply.text
    return f"{reply.status_code}: {_cut(' '.join(str(words).split()))}"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
