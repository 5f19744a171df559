"""The service for one user in this process: the same answering as the HTTP API's, for code without an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from text2sql.errors import DataError, Text2SQLError
from text2sql.serving.messages import GenerateResponse, Question
from text2sql.serving.observe import Record
from text2sql.serving.service import Service
from text2sql.serving.uploads import SQLITE_MAGIC
from text2sql.sql.describe import schema_of_csv, schema_text
from text2sql.sql.schema import parse_schema

if TYPE_CHECKING:
    from text2sql.serving.settings import ServerSettings
    from text2sql.serving.switch import EngineSwitch

T = TypeVar("T")


class Session:
    """Use it by `with`, which loads the model, and ends what was started.

    An interrupt (Ctrl-C) while it answers ends that answer, for the engine too, and is raised on; the session stays.
    """

    def __init__(self, settings: ServerSettings, switch: EngineSwitch) -> None:
        self._service = Service(settings, switch)
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_unasked)
        self._thread = threading.Thread(target=self._loop.run_forever, name="session", daemon=True)
        self._open = contextlib.AsyncExitStack()

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._wait(self._start())
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
        work = self._service.answer(question, Record("session"), told.put if tell else None)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
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
        schema = self._wait(self._service.guard.describe(where)) if where else ""
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
        if content.startswith(SQLITE_MAGIC):
            return self._wait(self._service.guard.describe(str(path.expanduser())))
        if len(content) > most:
            raise DataError(f"{path} has more than {most} bytes; a .sql file with CREATE TABLE statements will do")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise DataError(f"{path} is neither a SQLite database nor text in UTF-8") from None
        if path.suffix.lower() in (".csv", ".tsv"):
            return schema_text(schema_of_csv(text, path.name))
        return self.checked_schema(text)

    def checked_schema(self, text: str) -> str:
        """CREATE TABLE statements as the model will read them.

        Raises:
            Problem, SqlError: they cannot be used.
        """
        self._wait(self._service.usable(text))
        return schema_text(parse_schema(text))

    async def _start(self) -> None:
        await self._open.enter_async_context(self._service.guard)
        self._open.push_async_callback(self._service.switch.stop)
        await self._service.start()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _close(self) -> None:
        try:
            self._wait(self._end())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await self._open.aclose()
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_default_executor()


def _unasked(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What became of an answer that was stopped just as it failed is of no interest; anything else is asyncio's."""
    if not isinstance(context.get("exception"), Text2SQLError):
        loop.default_exception_handler(context)
