"""The service for one user in this process: the same answering as the HTTP API's, for code without an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from text2sql.errors import DataError, Text2SQLError
from text2sql.serving.loop import LoopThread
from text2sql.serving.messages import GenerateResponse, Question
from text2sql.serving.observe import Record
from text2sql.serving.schemas import SQLITE_MAGIC, checked_schema, schema_in
from text2sql.serving.service import Service

if TYPE_CHECKING:
    from text2sql.serving.recipe import Served
    from text2sql.serving.settings import ServerSettings


class Session:
    """Use it by `with`, which loads the model, and ends what was started.

    An interrupt (Ctrl-C) while it answers ends that answer, for the engine too, and is raised on; the session stays.
    """

    def __init__(self, settings: ServerSettings, served: Served) -> None:
        self._service = Service(settings, served)
        self._loop = LoopThread("session", _unasked)
        self._open = contextlib.AsyncExitStack()

    def __enter__(self) -> Self:
        self._loop.start()
        try:
            self._loop.wait(self._start)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @property
    def model(self) -> str:
        """What the model is called."""
        return self._service.model

    @property
    def database(self) -> str | None:
        """What answers are run on."""
        return self._service.settings.database

    def ask(self, question: Question, tell: Callable[[str], None] | None = None) -> GenerateResponse:
        """The answer; `tell` is called in this thread with more of its text as it grows.

        Raises:
            Problem, ServingError, DatabaseError
        """
        told: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        grow = told.put if tell else None
        future = self._loop.submit(lambda: self._service.answer(question, Record("session"), grow))
        future.add_done_callback(lambda _: told.put(None))
        try:
            while (text := told.get()) is not None:
                if tell:
                    tell(text)
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def use_database(self, where: str | None) -> str:
        """Run answers there from now on; its schema. None: nowhere.

        Raises:
            DatabaseError, SqlError: it cannot be used, and the former one stays.
        """
        schema = self._loop.wait(lambda: self._service.guard.describe(where)) if where else ""
        self._service.settings = self._service.settings.model_copy(update={"database": where})
        return schema

    def schema_of(self, path: Path) -> str:
        """CREATE TABLE text of a .sql, CSV or SQLite file, told apart by their first bytes and their names.

        Raises:
            DataError: it cannot be read.
            Problem, SqlError, DatabaseError: it holds no schema that can be used.
        """
        most = self._service.settings.max_upload_bytes
        try:
            with path.expanduser().open("rb") as file:
                content = file.read(most + 1)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}; check the path") from None
        if len(content) > most and not content.startswith(SQLITE_MAGIC):
            raise DataError(f"{path} has more than {most} bytes; a .sql file with CREATE TABLE statements will do")
        return self._loop.wait(lambda: schema_in(self._service, content, path.name, path.expanduser()))

    def checked_schema(self, text: str) -> str:
        """As schemas.checked_schema."""
        return self._loop.wait(lambda: checked_schema(self._service, text))

    async def _start(self) -> None:
        await self._open.enter_async_context(self._service.guard)
        if self.database:  # one that cannot be used is told before a model is loaded for nothing
            await self._service.guard.describe(self.database)
        self._open.push_async_callback(self._service.served.engine.stop)
        await self._service.start()

    def _close(self) -> None:
        try:
            self._loop.wait(self._open.aclose)
        finally:
            self._loop.close()


def _unasked(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What became of an answer that was stopped just as it failed is of no interest; anything else is asyncio's."""
    if not isinstance(context.get("exception"), Text2SQLError):
        loop.default_exception_handler(context)
