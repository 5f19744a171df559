"""From a question to its answer: the engine is asked, the guard judges, the metrics count."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

from text2sql.data.prompt import render_prompt
from text2sql.errors import EngineDead, ModelError, ServingError, Text2SQLError
from text2sql.serving.answering import Answer, Check, answer
from text2sql.serving.asking import Asking, together
from text2sql.serving.cells import Cells
from text2sql.serving.databases import Limits, caution
from text2sql.serving.engine import Completion, FinishReason, Options
from text2sql.serving.guard_pool import GuardPool
from text2sql.serving.limits import Places
from text2sql.serving.messages import Fault, GenerateResponse, Question, Usage
from text2sql.serving.metrics import Metrics
from text2sql.serving.observe import Record
from text2sql.serving.problems import Problem
from text2sql.serving.recipe import Served
from text2sql.serving.replies import to_response
from text2sql.sql.objections import Reason
from text2sql.sql.render import dialect_named

if TYPE_CHECKING:
    from text2sql.serving.settings import ServerSettings

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]
"""Gets more text of an answer as it grows."""

SPREAD = 0.8
"""Temperature of the candidates beyond the first."""
_DESCRIBED_SECONDS = 10.0
_UPLOADS = 16
"""Files that are received at once, each of up to max_upload_bytes in memory."""
_GUARD_PATIENCE = 10.0
"""Seconds that an answer waits for a guard process, where a request has time for that."""


class Service:
    """Everything that the routes share."""

    def __init__(self, settings: ServerSettings, served: Served) -> None:
        self.settings, self.served = settings, served
        self.guard = GuardPool(settings.guard_processes, min(_GUARD_PATIENCE, settings.request_timeout / 2))
        self.places = Places(settings.max_in_flight)
        self.uploads = Places(_UPLOADS, "files")
        self.metrics = Metrics(served.engine, self.places)
        self.draining = False
        self.started = False
        self.created = int(time.time())
        self.failed: Text2SQLError | None = None
        """Why the engine did not start."""
        self._described = (0.0, "")
        self._look: asyncio.Task[None] | None = None
        self._unwell: str | None = None
        """What is wrong with the engine, as last seen."""

    @property
    def model(self) -> str:
        """What the model is called here."""
        return self.settings.served_name or self.served.engine.name

    async def start(self) -> None:
        """Load the model. What is asked meanwhile gets 503.

        Raises:
            Text2SQLError: it cannot be loaded.
        """
        if said := caution(self.settings.database or ""):
            logger.warning(said)
        try:
            await self.served.engine.start()
        except Text2SQLError as error:
            self.failed = error
            raise
        except Exception as error:
            self.failed = ModelError(f"the model could not be loaded ({type(error).__name__}: {error})")
            raise self.failed from error
        self.started = True
        logger.info("ready", extra={"model": self.model})

    async def unready(self) -> str | None:
        """Why no new question should be sent here; None: it should. An engine's own words are for the log alone."""
        if self.draining:
            return "the server is shutting down"
        if self.failed:
            return "the model could not be loaded"
        if not self.started:
            return "the model is being loaded"
        if not self.guard.ready:
            return "the guard's processes are gone"
        health = await self.served.engine.health()
        why = None if health.ready else "the engine makes no progress" if health.alive else "the engine is gone"
        if why and why != self._unwell:  # probes come every few seconds
            logger.warning("%s: %s", why, health.detail)
        self._unwell = why
        return why

    @contextlib.asynccontextmanager
    async def work(self, places: int = 1) -> AsyncIterator[None]:
        """Where questions are answered: within a bounded number of places, and in time.

        Raises:
            Problem, ServingError, TimeoutError
        """
        if not self.started:
            why = "the model could not be loaded" if self.failed else "the model is being loaded"
            raise Problem(503, "engine_unavailable", why, retry_after=5)
        with self.places.take(places):
            async with asyncio.timeout(self.settings.request_timeout):
                yield

    async def answer(self, question: Question, record: Record, tell: Tell | None = None) -> GenerateResponse:
        """The first candidate that passes the guard and, if asked for, runs; repaired once, else with its faults.

        Raises:
            Problem: the schema or the wish to execute cannot be met.
            ServingError, DatabaseError
        """
        started = time.perf_counter()
        dialect = dialect_named(question.dialect)
        where = self._database_for(question)
        schema = await self._schema(question, where)
        usage = Usage()
        asking = Asking(self, self._wanted(question, record), usage, tell)
        found = await answer(
            question.question,
            schema,
            self.served.recipe.prompt_template,
            ask=asking.ask,
            check=self._check(schema),
            run=(lambda sql: self._run(where, sql)) if question.execute and where else None,
            n=question.n,
        )
        response = await asyncio.to_thread(to_response, found, dialect, schema)
        response.model, response.usage, response.request_id = self.model, usage, record.request_id
        response.latency_ms = round((time.perf_counter() - started) * 1000, 1)
        self.count(response.valid, response.reasons, response.repaired, record)
        record.spent(usage)
        self.log_content(question.question, schema, response.sql)
        return response

    async def complete(
        self, question: str, schema: str, options: Options, usage: Usage, record: Record
    ) -> list[tuple[Answer, FinishReason]]:
        """`options.n` completions, each judged and, where it fails, repaired once. Raises as `answer`."""
        await self.usable(schema, "messages")
        asking = Asking(self, [options], usage)
        template = self.served.recipe.prompt_template
        texts = await asking.ask(render_prompt(template, schema, question), options.n)
        answers = dict.fromkeys(texts)
        found = await together(
            [answer(question, schema, template, asking.ask, self._check(schema), texts=[text]) for text in answers]
        )
        said = dict(zip(answers, found, strict=True))
        for text in texts:
            self.count(said[text].valid, said[text].reasons, said[text].repaired, record)
            self.log_content(question, schema, said[text].sql)
        return [(said[text], asking.finished(said[text].text)) for text in texts]

    async def generate(self, prompt: str, options: Options) -> list[Completion]:
        """Ask the engine for one prompt; the tokens are the caller's to count."""
        self._sent(options.n)
        [found] = await self.served.engine.generate([prompt], options)
        return found

    async def stream(self, prompt: str, options: Options, tell: Tell) -> Completion:
        """One completion, told as it grows; the tokens are the caller's to count."""
        self._sent(1)
        done: Completion | None = None
        async with self.served.engine.stream(prompt, options) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    tell(chunk.text)
                done = chunk.completion
        if done is None:
            raise EngineDead("the engine ended in the middle of an answer")
        return done

    def prompt(self, schema: str, question: str) -> str:
        """What the model reads."""
        return self.served.wrap(render_prompt(self.served.recipe.prompt_template, schema, question))

    async def described(self) -> str:
        """CREATE TABLE text of the server's database, at most some seconds old.

        Raises:
            Problem: the server has none.
            DatabaseError, SqlError: it cannot be asked.
        """
        where = self.settings.database
        if where is None:
            raise Problem(404, "no_database", "this server has no database; send schema_text")
        if time.monotonic() > self._described[0]:
            if self._look is None:
                self._look = asyncio.create_task(self._look_at(where))
                self._look.add_done_callback(_retrieved)
            # Who comes meanwhile shares its end, a failure too: one look each, in turn, would take minutes.
            await asyncio.shield(self._look)
        return self._described[1]

    async def _look_at(self, where: str) -> None:
        try:
            found = await self.guard.describe(where)
            self._described = (time.monotonic() + _DESCRIBED_SECONDS, found)
        finally:
            self._look = None

    def count(self, valid: bool, reasons: Sequence[Reason | Fault], repaired: bool, record: Record) -> None:
        """Count what the guard said of an answer."""
        self.metrics.answers.labels(str(valid).lower(), str(repaired).lower()).inc()
        for fault in reasons:
            self.metrics.reasons.labels(fault.code).inc()
        record.told["valid"] = record.told.get("valid", 0) + valid
        record.told["repaired"] = record.told.get("repaired", 0) + repaired

    def log_content(self, question: str, schema: str, sql: str) -> None:
        """The users' data, where the settings allow it."""
        if self.settings.log_content:
            logger.info("content", extra={"question": question, "schema_text": schema, "sql": sql})

    def _sent(self, completions: int) -> None:
        """How many are generated together once these are, before they are: afterwards they would be gone."""
        with contextlib.suppress(ServingError):
            load = self.served.engine.load()
            self.metrics.batch.observe(min(load.running + load.waiting + completions, load.max_running))

    def _check(self, schema: str) -> Check:
        return lambda text: self.guard.check(text, schema)

    def _wanted(self, question: Question, record: Record) -> list[Options]:
        """The likeliest answer first, others drawn beside it."""
        likeliest = Options(tokens_allowed(self, question.max_new_tokens), cache_salt=record.cache_salt)
        drawn = dataclasses.replace(likeliest, temperature=SPREAD, n=max(question.n - 1, 1), seed=0)
        return [likeliest, drawn] if question.n > 1 else [likeliest]

    def _database_for(self, question: Question) -> str | None:
        if question.execute and self.settings.database is None:
            raise Problem(400, "no_database", "this server has no database to execute on", param="execute")
        return self.settings.database

    async def _schema(self, question: Question, where: str | None) -> str:
        schema = question.schema_text
        if not schema.strip():
            if where is None:
                raise Problem(422, "invalid_fields", "schema_text: give CREATE TABLE statements", param="schema_text")
            schema = await self.described()
        await self.usable(schema)
        return schema

    async def usable(self, schema: str, param: str = "schema_text") -> None:
        """A schema that the guard cannot use would cost two generations and give no answer.

        Raises:
            Problem: 422, of the field `param`.
        """
        for fault in (await self.guard.check("SELECT 1", schema)).reasons:
            raise Problem(422, "schema_unusable", fault.message, param=param)

    async def _run(self, where: str, sql: str) -> Cells:
        return await self.guard.run(where, sql, Limits(self.settings.query_seconds, self.settings.query_rows))


def _retrieved(look: asyncio.Task[None]) -> None:
    """Where nobody waits any longer, asyncio would log what it met as an exception that was never retrieved."""
    if not look.cancelled():
        look.exception()


def tokens_allowed(service: Service, asked: int | None) -> int:
    """What a request asks for, else what the model was judged with; the server's bound holds."""
    return min(asked or service.served.recipe.max_new_tokens, service.settings.max_new_tokens)
