"""Running SQL that nobody trusts: read-only, bounded in time, memory and size, a few functions, no system tables.

SQLite looks at a deadline only where its program jumps. What one step can do is bounded by the length limits, but a
long stretch of such steps, or the preparation of a query, is not: whoever judges untrusted text does it in a process
that can be killed (text2sql.sql.workers), where `die_when_stuck` ends it at the latest a second after its time.
"""

from __future__ import annotations

import functools
import re
import signal
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from text2sql.errors import ExecutionError, ForbiddenFunctionError, QueryTimeoutError, UnsafeSqlError
from text2sql.sql.parse import MAX_NESTING, MAX_QUERY_CHARS, leading_word, one_line, tokens

MAX_ROWS = 10_000
MAX_RESULT_BYTES = 16_000_000
MAX_VALUE_BYTES = 50_000
"""Longest string or row. trim(x, y), the worst, takes half a second on such strings, uninterrupted."""
MEMORY_BYTES = 512 << 20
"""All that SQLite may hold in this process: databases in memory, and what queries sort, group and materialise."""
_STEPS_BETWEEN_CHECKS = 1_000
_STEPS_BETWEEN_CALLS = 8
"""Instead, where a step may be one of these, tens of milliseconds long."""
_SLOW_CALL = re.compile(r"trim|instr|replace|like|glob", re.IGNORECASE)
_GRACE_SECONDS = 1.0

_ALLOWED_FUNCTIONS = frozenset(
    re.findall(
        r"\w+",
        """
        abs acos asin atan atan2 avg ceil ceiling char coalesce concat concat_ws cos count cume_dist current_date
        current_time current_timestamp date datetime degrees dense_rank exp first_value floor glob group_concat
        ifnull iif instr julianday lag last_value lead length like ln log log10 log2 lower ltrim max min mod
        nth_value ntile nullif percent_rank pi pow power radians rank replace round row_number rtrim sign sin sqrt
        strftime string_agg substr substring sum tan time timediff total trim trunc typeof unicode unixepoch upper
        """,
    )
)
_ALLOWED_ACTIONS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_VALUE_BYTES,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: MAX_QUERY_CHARS,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: MAX_NESTING,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 100_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 64,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 256,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_SIZED = (str, bytes)
_deadly = False


@dataclass(frozen=True)
class Result:
    """What a query returned; `truncated` when it had more rows than were asked for."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    truncated: bool = False


def run_query(connection: sqlite3.Connection, sql: str, timeout: float, max_rows: int = MAX_ROWS) -> Result:
    """Run one query, at most `timeout` seconds long.

    On a `Database` that is not forgiving, double-quoted text that names no column is an error.

    Raises:
        UnsafeSqlError: it does more than read tables of the database; ForbiddenFunctionError for a function.
        ExecutionError: the database refuses it, or it ran out of a limit; QueryTimeoutError for that of time.
    """
    return _run(connection, sql, timeout, max_rows)


def plan_query(connection: sqlite3.Connection, sql: str, timeout: float) -> None:
    """Let the database prepare a query, and not run it.

    Raises:
        SqlError: as run_query.
    """
    _run(connection, sql, timeout, 0, before="EXPLAIN ")


def _run(connection: sqlite3.Connection, sql: str, timeout: float, max_rows: int, before: str = "") -> Result:
    if '"' in sql and not getattr(connection, "forgiving", True):
        sql = strict_quotes(sql)
    if leading_word(sql) in ("EXPLAIN", "PRAGMA"):  # no action for the authorizer to deny, or several
        raise UnsafeSqlError(f"only SELECT is allowed, not {leading_word(sql)}")
    denied: list[UnsafeSqlError] = []
    expires = time.monotonic() + timeout

    def authorize(
        action: int, first: str | None, second: str | None, database: str | None, _trigger: str | None
    ) -> int:
        objection = _objection(action, first, second, database)
        if objection:
            denied.append(objection)
        return sqlite3.SQLITE_DENY if objection else sqlite3.SQLITE_OK

    try:
        _bound(connection)
        connection.set_authorizer(authorize)
        steps = _STEPS_BETWEEN_CALLS if _SLOW_CALL.search(sql) else _STEPS_BETWEEN_CHECKS
        connection.set_progress_handler(lambda: time.monotonic() > expires, steps)
        if _deadly:
            signal.setitimer(signal.ITIMER_REAL, timeout + _GRACE_SECONDS)
        return _fetch(connection, before + sql, max_rows, expires)
    except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError, OverflowError) as error:
        raise denied[0] if denied else _explained(error, timeout, late=time.monotonic() > expires) from None
    finally:
        if _deadly:
            signal.setitimer(signal.ITIMER_REAL, 0)
        connection.set_progress_handler(None, 0)
        connection.set_authorizer(None)


def die_when_stuck() -> None:
    """From now on a query that nothing interrupts at its deadline ends this process, by SIGALRM; for workers.

    Python's own handlers wait for SQLite to return; the signal's default action does not.
    """
    global _deadly
    if hasattr(signal, "setitimer"):  # not on Windows: the worker's caller is slower, but kills it too
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        _deadly = True


def _explained(error: Exception, timeout: float, late: bool) -> ExecutionError:
    if isinstance(error, MemoryError):
        return ExecutionError(f"needs more than {MEMORY_BYTES >> 20} MiB of memory")
    if late:
        return QueryTimeoutError(f"ran longer than {timeout:g} s")
    return ExecutionError(one_line(str(error)) or type(error).__name__)


def _bound(connection: sqlite3.Connection) -> None:
    """Set what outlives a query, once for a connection that can remember it."""
    if getattr(connection, "bounded", False):
        return
    _bound_memory()
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    connection.execute("PRAGMA temp_store = MEMORY").close()  # else it fills the disk, or fails in a worker
    if hasattr(connection, "__dict__"):
        connection.__dict__["bounded"] = True


@functools.cache
def _bound_memory() -> None:
    """SQLite's limit is one for the process, and can only be lowered afterwards."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"PRAGMA hard_heap_limit = {MEMORY_BYTES}")


def strict_quotes(sql: str) -> str:
    """The query with every "name" written as `name`, which SQLite never reads as a string."""
    parts, end = [], 0
    for match in tokens(sql):
        if match.group().startswith('"'):
            name = match.group()[1:-1].replace('""', '"').replace("`", "``")
            parts += [sql[end : match.start()], f"`{name}`"]
            end = match.end()
    return "".join([*parts, sql[end:]])


def _fetch(connection: sqlite3.Connection, sql: str, max_rows: int, expires: float) -> Result:
    with closing(connection.execute(sql)) as cursor:
        if cursor.description is None:
            raise ExecutionError("the text holds no query")
        columns = tuple(column[0] for column in cursor.description)
        rows: list[tuple[Any, ...]] = []
        room = MAX_RESULT_BYTES
        # As many rows at once as surely fit: most results end within the first batch, and need no measuring.
        batch = max(min(MAX_RESULT_BYTES // (len(columns) * MAX_VALUE_BYTES), 256), 1)
        while True:
            more = cursor.fetchmany(batch)
            if not rows and len(more) < min(batch, max_rows + 1):
                return Result(columns, more)
            for row in more:
                room -= sum(len(cell) if isinstance(cell, _SIZED) else 8 for cell in row)
                if len(rows) >= max_rows or room < 0:
                    return Result(columns, rows, truncated=True)
                rows.append(row)
            if len(more) < batch:
                return Result(columns, rows)
            if time.monotonic() > expires:
                raise sqlite3.OperationalError("interrupted")


def _objection(action: int, first: str | None, second: str | None, database: str | None) -> UnsafeSqlError | None:
    """Why SQLite's authorizer callback must deny an action, or None."""
    if action == sqlite3.SQLITE_FUNCTION:
        name = (second or "").lower()
        return (
            None
            if name in _ALLOWED_FUNCTIONS
            else ForbiddenFunctionError(f"function {one_line(name, 60)} is not allowed")
        )
    if action not in _ALLOWED_ACTIONS:
        asked = _ACTION_NAMES.get(action, f"action {action}")
        return UnsafeSqlError(f"only SELECT is allowed: SQLite asked for {asked}")
    if action == sqlite3.SQLITE_READ:
        name = (first or "").lower()
        if name.startswith(("sqlite_", "pragma_")) or name in _virtual_tables():
            return UnsafeSqlError(f"system table {one_line(name, 60)} cannot be read")
        if database not in (None, "", "main"):
            return UnsafeSqlError(f"database {one_line(database, 60)} cannot be read")
    return None


@functools.cache
def _virtual_tables() -> frozenset[str]:
    """Names that SQLite answers without any such table existing (json_each, dbstat, …)."""
    connection = sqlite3.connect(":memory:")
    try:
        return frozenset(row[0].lower() for row in connection.execute("SELECT name FROM pragma_module_list"))
    finally:
        connection.close()


_ACTION_NAMES = {
    getattr(sqlite3, name): name.removeprefix("SQLITE_").replace("_", " ")
    for name in dir(sqlite3)
    if re.fullmatch(
        r"SQLITE_(CREATE|DROP|ALTER|ATTACH|DETACH|INSERT|UPDATE|DELETE|PRAGMA|TRANSACTION|SAVEPOINT)\w*", name
    )
    or name in ("SQLITE_REINDEX", "SQLITE_ANALYZE")
}
