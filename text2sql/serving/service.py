"""From a question to its answer: the engine is asked, the guard judges, the metrics count."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from text2sql.data.prompt import render_prompt
from text2sql.errors import EngineDead, RequestError, ServingError, Text2SQLError
from text2sql.serving.answering import answer
from text2sql.serving.cells import Cells
from text2sql.serving.databases import Limits
from text2sql.serving.engine import Completion, Options
from text2sql.serving.guard_pool import GuardPool
from text2sql.serving.limits import Places
from text2sql.serving.messages import GenerateResponse, Question, Usage
from text2sql.serving.metrics import Metrics
from text2sql.serving.observe import Record
from text2sql.serving.problems import Problem
from text2sql.serving.replies import known_dialect, to_response
from text2sql.serving.switch import EngineSwitch, Served
from text2sql.sql.guard import Checked

if TYPE_CHECKING:
    from text2sql.serving.settings import ServerSettings

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]
"""Gets more text of an answer as it grows."""
T = TypeVar("T")

SPREAD = 0.8
"""Temperature of the candidates beyond the first."""
_DESCRIBED_SECONDS = 10.0
_GUARD_PATIENCE = 10.0
"""Seconds that an answer waits for a guard process, where a request has time for that."""


@dataclass(frozen=True)
class Judged:
    """A completion and what the guard says of it."""

    completion: Completion
    checked: Checked


class Service:
    """Everything that the routes share."""

    def __init__(self, settings: ServerSettings, switch: EngineSwitch) -> None:
        self.settings, self.switch = settings, switch
        self.guard = GuardPool(settings.guard_processes, min(_GUARD_PATIENCE, settings.request_timeout / 2))
        self.places = Places(settings.max_in_flight)
        self.metrics = Metrics(switch, self.places)
        self.draining = False
        self.started = False
        self.created = int(time.time())
        self.failed: Text2SQLError | None = None
        """Why the engine did not start."""
        self._described = (0.0, "")
        self._unwell: str | None = None
        """What is wrong with the engine, as last seen."""

    @property
    def model(self) -> str:
        """What the model is called here."""
        return self.settings.served_name or self.switch.name

    async def start(self) -> None:
        """Load the model. What is asked meanwhile gets 503."""
        try:
            await self.switch.start()
        except Text2SQLError as error:
            self.failed = error
            raise
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
        health = await self.switch.health()
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
            Problem: the schema, the dialect or the wish to execute cannot be met.
            ServingError, DatabaseError
        """
        started = time.perf_counter()
        dialect = known_dialect(question.dialect)
        where = self._database_for(question)
        schema = await self._schema(question, where)
        usage = Usage()
        with self.switch.hold() as served:
            asking = _Asking(self, served, question.max_new_tokens, usage, tell)
            found = await answer(
                question.question,
                schema,
                served.recipe.prompt_template,
                ask=asking.ask,
                check=lambda text: self.guard.check(text, schema),
                run=(lambda sql: self._run(where, sql)) if question.execute and where else None,
                n=question.n,
            )
        response = await asyncio.to_thread(to_response, found, dialect, schema)
        response.model, response.usage, response.request_id = self.model, usage, record.request_id
        response.latency_ms = round((time.perf_counter() - started) * 1000, 1)
        self._count(response, record)
        if self.settings.log_content:
            logger.info("content", extra={"question": question.question, "schema_text": schema, "sql": response.sql})
        return response

    async def complete(self, question: str, schema: str, options: Options, record: Record) -> list[Judged]:
        """`options.n` completions as the model gives them, each judged. Raises as `answer`."""
        await self.usable(schema)
        with self.switch.hold() as served:
            [completions] = await self.generate(served, self.prompt(served, schema, question), options)
        judged = [Judged(done, await self.guard.check(done.text, schema)) for done in completions]
        for one in judged:
            self.judged(one.checked, record)
        return judged

    async def generate(self, served: Served, prompt: str, options: Options) -> list[list[Completion]]:
        """Ask the engine for one prompt, and count."""
        found = await served.engine.generate([prompt], options)
        self._seen(served, found[0])
        return found

    async def stream(self, served: Served, prompt: str, options: Options, tell: Tell) -> Completion:
        """One completion, told as it grows, and count."""
        done: Completion | None = None
        async with served.engine.stream(prompt, options) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    tell(chunk.text)
                done = chunk.completion
        if done is None:
            raise EngineDead("the engine ended in the middle of an answer")
        self._seen(served, [done])
        return done

    @staticmethod
    def prompt(served: Served, schema: str, question: str) -> str:
        """What the model reads."""
        return served.wrap(render_prompt(served.recipe.prompt_template, schema, question))

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
            self._described = (time.monotonic() + _DESCRIBED_SECONDS, await self.guard.describe(where))
        return self._described[1]

    def judged(self, checked: Checked, record: Record) -> None:
        """Count what the guard said of a completion."""
        self.metrics.answers.labels(str(checked.valid).lower(), "false").inc()
        for fault in checked.reasons:
            self.metrics.reasons.labels(fault.code).inc()
        record.told["valid"] = record.told.get("valid", 0) + checked.valid

    def _seen(self, served: Served, completions: list[Completion]) -> None:
        self.metrics.generated(completions)
        with contextlib.suppress(ServingError):
            self.metrics.batch.observe(served.engine.load().running + 1)

    def _count(self, response: GenerateResponse, record: Record) -> None:
        self.metrics.answers.labels(str(response.valid).lower(), str(response.repaired).lower()).inc()
        for fault in response.reasons:
            self.metrics.reasons.labels(fault.code).inc()
        told = record.told
        for name, value in response.usage.model_dump().items():
            told[name] = told.get(name, 0) + value
        told["questions"] = told.get("questions", 0) + 1
        told["valid"] = told.get("valid", 0) + response.valid
        told["repaired"] = told.get("repaired", 0) + response.repaired

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

    async def usable(self, schema: str) -> None:
        """A schema that the guard cannot use would cost two generations and give no answer."""
        for fault in (await self.guard.check("SELECT 1", schema)).reasons:
            raise Problem(422, "schema_unusable", fault.message, param="schema_text")

    async def _run(self, where: str, sql: str) -> Cells:
        return await self.guard.run(where, sql, Limits(self.settings.query_seconds, self.settings.query_rows))


class _Asking:
    """How the answering flow reaches the engine: the likeliest answer first, others drawn beside it."""

    def __init__(
        self, service: Service, served: Served, max_new_tokens: int | None, usage: Usage, tell: Tell | None
    ) -> None:
        self._service, self._served, self._usage, self._tell = service, served, usage, tell
        self._tokens = tokens_allowed(service.settings, served, max_new_tokens)
        self._asked = False

    async def ask(self, prompt: str, n: int) -> Sequence[str]:
        """Texts for a prompt; a repair that does not fit the model's length gets none."""
        first, self._asked = not self._asked, True
        prompt = self._served.wrap(prompt)
        wanted = [self._likeliest(prompt, first)]
        if n > 1:
            drawn = Options(max_new_tokens=self._tokens, temperature=SPREAD, n=n - 1, seed=0)
            wanted.append(self._drawn(prompt, drawn))
        try:
            found = [completion for part in await together(wanted) for completion in part]
        except RequestError:
            if first:
                raise
            return []
        self._usage.add(found[0].prompt_tokens, sum(completion.completion_tokens for completion in found))
        return [completion.text for completion in found]

    async def _likeliest(self, prompt: str, first: bool) -> list[Completion]:
        options = Options(max_new_tokens=self._tokens)
        if first and self._tell:
            return [await self._service.stream(self._served, prompt, options, self._tell)]
        return (await self._service.generate(self._served, prompt, options))[0]

    async def _drawn(self, prompt: str, options: Options) -> list[Completion]:
        return (await self._service.generate(self._served, prompt, options))[0]


def tokens_allowed(settings: ServerSettings, served: Served, asked: int | None) -> int:
    """What a request asks for, else what the model was judged with; the server's bound holds."""
    return min(asked or served.recipe.max_new_tokens, settings.max_new_tokens)


async def together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; when one fails, the others are cancelled and it is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
