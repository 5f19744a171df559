"""Running SQL that nobody trusts: read-only, bounded in time and size, a few functions, no system tables.

What one SQLite opcode can do before the deadline is looked at again is bounded by the length limits; what goes on while
a query is being prepared is not bounded here, so callers that judge untrusted text do it in a process that can be
killed (text2sql.sql.workers).
"""

from __future__ import annotations

import functools
import re
import sqlite3
import time
from dataclasses import dataclass
from typing import Any

from text2sql.errors import ExecutionError, ForbiddenFunctionError, QueryTimeoutError, UnsafeSqlError
from text2sql.sql.parse import MAX_NESTING, MAX_QUERY_CHARS, leading_word, tokens

MAX_ROWS = 10_000
MAX_RESULT_BYTES = 16_000_000
MAX_VALUE_BYTES = 50_000
"""Longest string or row. trim(x, y) and instr(x, y) take up to its square in steps, uninterrupted."""
_STEPS_BETWEEN_CHECKS = 1_000

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
}


@dataclass(frozen=True)
class Result:
    """What a query returned; `truncated` when it had more rows than were asked for."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    truncated: bool = False


def run_query(connection: sqlite3.Connection, sql: str, timeout: float, max_rows: int = MAX_ROWS) -> Result:
    """Run one query, at most `timeout` seconds long.

    On a connection of `build_database` that is not forgiving, double-quoted text that names no column is an error.

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
    if not getattr(connection, "forgiving", True):
        sql = strict_quotes(sql)
    if leading_word(sql) in ("EXPLAIN", "PRAGMA"):  # no action for the authorizer to deny, or several
        raise UnsafeSqlError(f"only SELECT is allowed, not {leading_word(sql)}")
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    denied: list[UnsafeSqlError] = []
    expires = time.monotonic() + timeout

    def authorize(
        action: int, first: str | None, second: str | None, database: str | None, _trigger: str | None
    ) -> int:
        objection = _objection(action, first, second, database)
        if objection:
            denied.append(objection)
        return sqlite3.SQLITE_DENY if objection else sqlite3.SQLITE_OK

    connection.set_authorizer(authorize)
    connection.set_progress_handler(lambda: time.monotonic() > expires, _STEPS_BETWEEN_CHECKS)
    try:
        return _fetch(connection, before + sql, max_rows, expires)
    except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError, OverflowError) as error:
        if denied:
            raise denied[0] from None
        if time.monotonic() > expires:
            raise QueryTimeoutError(f"ran longer than {timeout:g} s") from None
        raise ExecutionError(str(error) or type(error).__name__) from None
    finally:
        connection.set_progress_handler(None, 0)
        connection.set_authorizer(None)


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
    cursor = connection.execute(sql)
    try:
        if cursor.description is None:
            raise ExecutionError("the text holds no query")
        columns = tuple(column[0] for column in cursor.description)
        rows: list[tuple[Any, ...]] = []
        room = MAX_RESULT_BYTES
        for row in cursor:
            room -= sum(len(cell) if isinstance(cell, str | bytes) else 8 for cell in row)
            if len(rows) >= max_rows or room < 0:
                return Result(columns, rows, truncated=True)
            rows.append(row)
            if not len(rows) % 256 and time.monotonic() > expires:  # few steps a row can stay below the handler's count
                raise sqlite3.OperationalError("interrupted")
        return Result(columns, rows)
    finally:
        cursor.close()


def _objection(action: int, first: str | None, second: str | None, database: str | None) -> UnsafeSqlError | None:
    """Why SQLite's authorizer callback must deny an action, or None."""
    if action == sqlite3.SQLITE_FUNCTION:
        name = (second or "").lower()
        return None if name in _ALLOWED_FUNCTIONS else ForbiddenFunctionError(f"function {name} is not allowed")
    if action not in _ALLOWED_ACTIONS:
        asked = _ACTION_NAMES.get(action, f"action {action}")
        return UnsafeSqlError(f"only SELECT is allowed: SQLite asked for {asked}")
    if action == sqlite3.SQLITE_READ:
        name = (first or "").lower()
        if name.startswith(("sqlite_", "pragma_")) or name in _virtual_tables():
            return UnsafeSqlError(f"system table {name} cannot be read")
        if database not in (None, "", "main"):
            return UnsafeSqlError(f"database {database} cannot be read")
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
