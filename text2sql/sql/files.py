"""Opening a SQLite file that belongs to somebody else: to be read, and left as it was to the byte."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

from text2sql.errors import ExecutionError
from text2sql.sql.database import Database

_LOCK_SECONDS = 0.5
"""How long a query waits while another process writes; counts beside the query's own time."""
_MAGIC = b"SQLite format 3\0"
_WRITE_VERSION, _READ_VERSION = 18, 19
"""Offsets in the header (SQLite's file format, 1.3): 2 in either is WAL mode, 1 a rollback journal."""
_MAX_COPY_BYTES = 256 << 20


def open_database(path: Path) -> Database:
    """A read-only connection for `run_query`; what is committed to the file later is seen.

    Neither the file nor the folder around it is written to: no journal, no `-wal`, no `-shm`. A file in WAL mode that
    nobody has open could not be read so, and is copied into memory (up to 256 MiB): there, only a new connection sees
    later changes. Links are followed, since caches of downloads consist of them. Text that is no UTF-8 is read with
    replacement characters. One process must not both read and write the file: closing
    the header drops its POSIX locks.

    Raises:
        ExecutionError: there is no such file, or it is no database, locked, damaged or not to be read.
    """
    header, file = _header(path)
    if 2 in header[_WRITE_VERSION : _READ_VERSION + 1] and not _has_live_wal(file):
        connection = _copy(file)
    else:
        # as_uri escapes ?, # and %; readonly_shm keeps a reader's marks out of a writer's index.
        connection = _connect(f"{file.as_uri()}?mode=ro&readonly_shm=1", uri=True)
    try:
        # Views and generated columns are text of the file's author: they may call harmless functions only.
        for pragma in ("query_only = ON", "trusted_schema = OFF", "cell_size_check = ON", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").close()  # now, or the first query would tell
    except sqlite3.Error as error:
        connection.close()
        raise ExecutionError(f"database {path} {_remedy(error, path)}") from None
    return connection


def _header(path: Path) -> tuple[bytes, Path]:
    """The first 100 bytes, and where the file is once links are followed."""
    try:
        file = path.resolve(strict=True)
        if not stat.S_ISREG(file.stat().st_mode):  # opening a pipe would wait for ever
            raise ExecutionError(f"database {path} is no file; name the SQLite file itself")
        with file.open("rb") as stream:
            header = stream.read(100)
    except FileNotFoundError:
        missing = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        raise ExecutionError(f"database {path} {missing}; check the path") from None
    except PermissionError:
        raise ExecutionError(f"database {path} may not be read; give this user read permission") from None
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle; ValueError: a NUL
        reason = getattr(error, "strerror", None) or str(error)
        raise ExecutionError(f"database {path!s:.200} cannot be opened ({reason}); check the path") from None
    if not header.startswith(_MAGIC):
        what = "is empty" if not header else "is no SQLite 3 file"
        raise ExecutionError(f"database {path} {what}; name a file that sqlite3 can open")
    return header, file


def _has_live_wal(file: Path) -> bool:
    """Whether a `-wal` and its index are there, as they are while somebody has the file open, or after a crash."""
    wal, index = (file.with_name(file.name + end) for end in ("-wal", "-shm"))
    if index.exists() and wal.exists():
        return True
    if wal.exists() and wal.stat().st_size:
        raise ExecutionError(
            f"database {file} has changes in {wal.name} that were not written back, and no index of them; "
            "write them back with: PRAGMA wal_checkpoint(TRUNCATE)"
        )
    return False


def _copy(file: Path) -> Database:
    """The file in memory, its header saying rollback journal: in WAL mode SQLite would not read it from there."""
    size = file.stat().st_size
    if size > _MAX_COPY_BYTES:
        raise ExecutionError(
            f"database {file} is in WAL mode and too large to copy ({size >> 20} MiB); "
            "change it with: PRAGMA journal_mode = DELETE"
        )
    content = bytearray(file.read_bytes())
    content[_WRITE_VERSION] = content[_READ_VERSION] = 1
    connection = _connect(":memory:", uri=False)
    connection.deserialize(content)
    return connection


def _connect(name: str, uri: bool) -> Database:
    connection = sqlite3.connect(
        name, uri=uri, factory=Database, isolation_level=None, cached_statements=0, timeout=_LOCK_SECONDS
    )
    connection.text_factory = _text
    return connection


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _remedy(error: sqlite3.Error, path: Path) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "is being written to by another process; try again when it is done"
    if code == sqlite3.SQLITE_NOTADB:
        return "is encrypted or no SQLite 3 file; name a file that sqlite3 can open"
    if code == sqlite3.SQLITE_CORRUPT:
        return "is damaged; restore it from a copy, or save what is left with: sqlite3 FILE .recover"
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        found = [end for end in ("-journal", "-wal", "-shm") if path.with_name(path.name + end).exists()]
        if found == ["-journal"]:
            return "was left in the middle of a write; open it once with sqlite3, which rolls that back"
        return f"needs files beside it that may not be read ({', '.join(found) or 'none found'}); give this user access"
    return f"cannot be read ({error}); check it with: PRAGMA integrity_check"
