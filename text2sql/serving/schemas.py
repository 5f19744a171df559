"""The schema in a file: a SQLite database, a CSV file or CREATE TABLE statements, by its first bytes and its name."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from text2sql.errors import DatabaseError, DataError, ExecutionError
from text2sql.sql.describe import schema_of_csv, schema_text
from text2sql.sql.parse import one_line
from text2sql.sql.schema import parse_schema

if TYPE_CHECKING:
    from text2sql.serving.service import Service

SQLITE_MAGIC = b"SQLite format 3\0"
_NAME_CHARS = 100


async def schema_in(service: Service, content: bytes, name: str, file: Path | None = None) -> str:
    """CREATE TABLE text of a file's content.

    Args:
        file: where it lies, if on this machine: a database is read there, and its first bytes suffice as content.

    Raises:
        DataError: it is neither a database nor text, or a CSV file without a header.
        Problem, SqlError, DatabaseError: it holds no schema that can be used.
    """
    shown = one_line(name, _NAME_CHARS) or "the file"
    if content.startswith(SQLITE_MAGIC):
        return await (service.guard.describe(str(file)) if file else _uploaded(service, content, shown))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{shown} is neither a SQLite database nor text in UTF-8") from None
    if name.lower().endswith((".csv", ".tsv")):
        return await asyncio.to_thread(lambda: schema_text(schema_of_csv(text, name)))
    return await checked_schema(service, text)


async def checked_schema(service: Service, text: str) -> str:
    """CREATE TABLE statements as the model will read them.

    Raises:
        Problem, SqlError: they cannot be used.
    """
    await service.usable(text)
    return await asyncio.to_thread(lambda: schema_text(parse_schema(text)))


async def _uploaded(service: Service, content: bytes, name: str) -> str:
    """Opened in a process of the guard, never in this one."""
    with tempfile.TemporaryDirectory(prefix="text2sql-") as folder:
        path = Path(folder) / "upload.sqlite"
        await asyncio.to_thread(path.write_bytes, content)
        try:
            return await service.guard.describe(str(path))
        except (DatabaseError, ExecutionError) as error:
            raise type(error)(str(error).replace(str(path), name)) from None
