"""The guard, and databases, in processes that can be killed: what a stranger's SQL does there hurts nobody else.

A few workers (text2sql.sql.workers) stand ready; each does one thing at a time and is replaced when it dies, is worn
out or exceeds its time. Without an answer from a worker nothing counts as valid, and a pool without a free worker says
that (GuardBusy) rather than anything about the SQL. Queries and descriptions, which may take long, leave one to checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
from dataclasses import dataclass
from typing import Any, Self

from text2sql.errors import DatabaseError, ExecutionError, GuardBusy, QueryTimeoutError, SqlError, UnsafeSqlError
from text2sql.serving.cells import Cells
from text2sql.serving.databases import Limits, Source, open_source
from text2sql.sql.guard import Checked, Guard
from text2sql.sql.objections import reason
from text2sql.sql.parse import MAX_QUERY_CHARS, first_statement
from text2sql.sql.schema import MAX_CONTEXT_CHARS
from text2sql.sql.workers import how_it_died, worker_command

logger = logging.getLogger(__name__)

CHECK_SECONDS = 3.0
_DESCRIBE_SECONDS = 30.0
_CONNECT_GRACE = 8.0
"""Beyond a query's own time: to connect, to read the schema, to be interrupted."""
_DEATH_SECONDS = 1.0
_START_SECONDS = 60.0
_LINE_BYTES = 64 << 20
_SCHEMAS = 32
_SOURCES = 4
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_ERRORS: dict[str, type[DatabaseError | SqlError]] = {
    error.__name__: error for error in (DatabaseError, QueryTimeoutError, UnsafeSqlError, ExecutionError, SqlError)
}


class GuardPool:
    """Checks answers and runs queries for one event loop; `async with` starts and ends its processes."""

    def __init__(self, size: int, patience: float = 10.0) -> None:
        """Nothing is started yet.

        Args:
            size: processes, of some 22 MB each; one does some 1,000 checks a second. Of several, one is kept for
                checks, and each of the others runs a query.
            patience: seconds that a caller waits for a process to be free.
        """
        self._size, self._patience = size, patience
        self._idle: asyncio.LifoQueue[_Process] = asyncio.LifoQueue()
        self._checks, self._long = asyncio.Semaphore(size), asyncio.Semaphore(max(size - 1, 1))
        self._all: set[_Process] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        try:
            for process in await asyncio.gather(*(self._started() for _ in range(self._size))):
                self._idle.put_nowait(process)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def ready(self) -> bool:
        """Whether a process is there to check with, busy or not."""
        return bool(self._all) and not self._closed

    async def check(self, text: str, context: str) -> Checked:
        """`guard.check`; an answer on which the check itself ran out of time, or died twice, is not valid.

        Raises:
            GuardBusy: no process was free.
        """
        if len(text) > MAX_QUERY_CHARS or len(context) > MAX_CONTEXT_CHARS:  # spare the pipe
            what, most = ("answer", MAX_QUERY_CHARS) if len(text) > MAX_QUERY_CHARS else ("schema", MAX_CONTEXT_CHARS)
            words = f"the {what} has {len(text if what == 'answer' else context)} characters; at most {most} are read"
            return Checked("", (reason("not_sql" if what == "answer" else "schema_unusable", words),))
        item = {"do": "check", "text": text, "context": context}
        for again in (True, False):
            try:
                return Checked.from_dict(await self._ask(self._checks, item, CHECK_SECONDS))
            except QueryTimeoutError as error:
                return Checked(first_statement(text), (reason("timed_out", f"could not be checked: {error}"),))
            except ExecutionError as error:
                died = reason("does_not_plan", f"could not be checked: {error}")
                if again:  # what killed the process may have had nothing to do with this answer
                    continue
        return Checked(first_statement(text), (died,))

    async def run(self, where: str, sql: str, limits: Limits) -> Cells:
        """`Source.run`: the result of a query on a database.

        Raises:
            SqlError: for what the query does; QueryTimeoutError where it takes too long.
            DatabaseError: the database cannot be asked.
            GuardBusy: no process was free.
        """
        item = {"do": "run", "where": where, "sql": sql, "seconds": limits.seconds, "rows": limits.rows}
        return Cells.from_dict(await self._ask(self._long, item, limits.seconds + _CONNECT_GRACE))

    async def describe(self, where: str) -> str:
        """`Source.describe`: CREATE TABLE text of a database.

        Raises:
            DatabaseError: the database cannot be asked.
            ExecutionError: it cannot be described.
            GuardBusy: no process was free.
        """
        said = await self._ask(self._long, {"do": "describe", "where": where}, _DESCRIBE_SECONDS + _CONNECT_GRACE)
        return str(said["schema"])

    async def close(self) -> None:
        """End every process; callers that still wait get an error."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(process.end() for process in list(self._all)))
        self._all.clear()

    async def _ask(self, share: asyncio.Semaphore, item: dict[str, Any], seconds: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._patience), contextlib.AsyncExitStack() as waiting:
                await waiting.enter_async_context(share)
                process = await self._idle.get()
                held = waiting.pop_all()
        except TimeoutError:
            raise GuardBusy(f"no guard process was free for {self._patience:g} s; ask again later") from None
        # A caller that goes away leaves the exchange to end by itself: half of one would garble the next.
        task = self._keep(self._exchange(held, process, item, seconds))
        said: dict[str, Any] = await asyncio.shield(task)
        if "raised" in said:
            raise _ERRORS[said["raised"]](said["words"])
        return said

    async def _exchange(
        self, held: contextlib.AsyncExitStack, process: _Process, item: dict[str, Any], seconds: float
    ) -> dict[str, Any]:
        worn = True
        try:
            async with held, asyncio.timeout(seconds):
                said = await process.ask(item)
            worn = bool(said.get("worn"))
        except TimeoutError:
            return {"raised": "QueryTimeoutError", "words": f"took more than {seconds:g} s and was killed"}
        except (OSError, EOFError, ValueError):
            code = await process.died()
            return {"raised": "ExecutionError", "words": how_it_died(code)}
        finally:
            if self._closed:
                pass
            elif worn:
                self._keep(self._replace(process))
            else:
                self._idle.put_nowait(process)
        if "error" in said:  # not foreseen: the worker's own words are for the log
            logger.error("a check failed: %s", said["error"])
            return {"raised": "ExecutionError", "words": "the check failed; the server's log says more"}
        return dict(said["answer"])

    async def _replace(self, process: _Process) -> None:
        self._all.discard(process)
        await process.end()
        pause = _FIRST_PAUSE
        while not self._closed:
            try:
                self._idle.put_nowait(await self._started())
            except (OSError, EOFError, TimeoutError) as error:
                logger.warning("a guard process did not start (%s); trying again in %g s", error, pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                return

    async def _started(self) -> _Process:
        command, environment = worker_command("text2sql.serving.guard_pool:work")
        process = _Process(
            await asyncio.create_subprocess_exec(
                *command,
                env=environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE_BYTES,
            )
        )
        self._all.add(process)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await process.greet()
        except BaseException:
            self._all.discard(process)
            await process.end()
            raise
        return process

    def _keep(self, work: Any) -> asyncio.Task[Any]:
        """A task that nothing else refers to could be collected while it runs."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


@dataclass(eq=False)
class _Process:
    """A worker and its two pipes."""

    process: asyncio.subprocess.Process

    async def greet(self) -> None:
        """Wait until it is ready. Raises EOFError when it ends instead."""
        if (await self._line()).strip() != b"ready":
            raise EOFError("it ended while it started")

    async def ask(self, item: dict[str, Any]) -> dict[str, Any]:
        """Its JSON object for an item. Raises OSError, EOFError or ValueError when it dies meanwhile."""
        assert self.process.stdin is not None  # noqa: S101 - for the type checker
        self.process.stdin.write(json.dumps(item).encode() + b"\n")
        await self.process.stdin.drain()
        said: dict[str, Any] = json.loads(await self._line())
        return said

    async def died(self) -> int | None:
        """The exit code of one whose pipe has ended.

        To kill it at once would lose the code: Popen.send_signal polls first, and may reap the process before asyncio's
        own thread does, which then reports 255.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DEATH_SECONDS):
                await self.process.wait()
        return await self.end()

    async def end(self) -> int | None:
        """Make sure that it is gone; its exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        code = await self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
            with contextlib.suppress(OSError):
                await self.process.stdin.wait_closed()
        return code

    async def _line(self) -> bytes:
        assert self.process.stdout is not None  # noqa: S101
        line = await self.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError("it ended")
        return line


def work(item: dict[str, Any]) -> dict[str, Any]:
    """The worker's side of GuardPool: an item in, a JSON object out, errors of the project in words."""
    try:
        if item["do"] == "check":
            return _check(item["text"], item["context"]).to_dict()
        source = _source(item["where"])
        if item["do"] == "describe":
            return {"schema": source.describe()}
        return source.run(item["sql"], Limits(item["seconds"], item["rows"])).to_dict()
    except (DatabaseError, SqlError) as error:
        name = next(name for name, kind in _ERRORS.items() if isinstance(error, kind))
        return {"raised": name, "words": str(error)}


def _check(text: str, context: str) -> Checked:
    try:
        return _guard(context).check(text)
    except SqlError as error:
        return Checked("", (reason("schema_unusable", str(error)),))


@functools.lru_cache(_SCHEMAS)
def _guard(context: str) -> Guard:
    return Guard(context)


@functools.lru_cache(_SOURCES)
def _source(where: str) -> Source:
    return open_source(where)
