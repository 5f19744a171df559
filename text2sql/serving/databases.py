"""Databases that answers are run on: read-only, bounded in time and rows, and never without the guard.

    where                             read-only by                             time limit by
    a path, sqlite:///path            mode=ro, authorizer, function allowlist  progress handler, SIGALRM in a worker
    postgresql[+driver]://…           SET TRANSACTION READ ONLY                statement_timeout, lock_timeout
    mysql:// or mariadb[+driver]://…  START TRANSACTION READ ONLY              max_execution_time or max_statement_time

SQLite, PostgreSQL and MariaDB are tried against the real thing by the tests. MySQL is asked as MariaDB is, but for its
limit, which is written by its manual; `caution` says so to whoever uses one.

Whatever the database promises, a query is first held against its own schema by text2sql.sql.guard and then written
anew from its tree, so that no comment and no second statement reaches a server. Give a role that may only SELECT: a
read-only transaction does not stop what a server's functions and triggers on reading do.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from text2sql.errors import DatabaseError, ExecutionError, QueryTimeoutError
from text2sql.serving.cells import Cells, to_cells
from text2sql.sql.describe import schema_behind, schema_of, schema_text
from text2sql.sql.execute import run_query
from text2sql.sql.files import open_database
from text2sql.sql.guard import Checked, check
from text2sql.sql.parse import first_statement, one_line, table_names
from text2sql.sql.render import render_sql
from text2sql.sql.schema import Schema

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

CONNECT_SECONDS = 5
_MAX_ERROR_CHARS = 200
_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
"""What is used where the URL names none."""
_PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "mysqldb": "mysqlclient"}
"""Drivers that come in packages of other names."""
_CANCELLED = frozenset({"57014", "55P03", "3024", "1969", "1317", "1205"})
"""SQLSTATEs of PostgreSQL and error numbers of MySQL and MariaDB for a query that took, or waited, too long."""


@dataclass(frozen=True)
class Limits:
    """How long a query may run, and how many of its rows are kept."""

    seconds: float = 5.0
    rows: int = 1_000


class Source(Protocol):
    """A database to ask."""

    dialect: str
    """sqlglot's name for the SQL that it speaks."""

    def describe(self) -> str:
        """CREATE TABLE text of its tables and views. Raises DatabaseError, ExecutionError."""

    def run(self, sql: str, limits: Limits) -> Cells:
        """The result of one SQLite query. Raises SqlError for what the query does, DatabaseError for the rest."""


def open_source(where: str) -> Source:
    """A SQLite file by its path or URL, or a server by its SQLAlchemy URL; nothing is opened yet.

    Raises:
        DatabaseError: the URL is malformed, or of a database that cannot be asked safely.
    """
    if "://" not in where:
        return SqliteSource(Path(where))
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(where)
        backend, driver = url.get_backend_name(), url.drivername.partition("+")[2]
    except (ArgumentError, ValueError, TypeError):
        raise DatabaseError(
            "the database URL cannot be read; write dialect://user:password@host:port/name, with special characters "
            "of the password percent-encoded"
        ) from None
    if backend == "sqlite":
        if not url.database or url.query or driver not in ("", "pysqlite"):
            raise DatabaseError("a SQLite URL names a file and nothing else: sqlite:///folder/file.sqlite")
        return SqliteSource(Path(url.database))
    if backend not in _DRIVERS:
        raise DatabaseError(
            f"a {one_line(backend, 40)} database cannot be kept from writing by this server; known are a SQLite file, "
            f"{', '.join(_DRIVERS)}"
        )
    return ServerSource(url if driver else url.set(drivername=f"{backend}+{_DRIVERS[backend]}"))


def shown(where: str) -> str:
    """A database as anybody may see it: a path as it is, of a server's URL neither user, password nor parameters.

    Raises:
        DatabaseError: as open_source.
    """
    source = open_source(where)
    return source.name if isinstance(source, ServerSource) else where


def caution(where: str) -> str | None:
    """What whoever lets this database be asked should know first, in one line."""
    backend = where.partition("://")[0].partition("+")[0] if "://" in where else ""
    if backend != "mysql":
        return None
    return (
        "mysql: that queries only read and end in time was tried against MariaDB, and against no MySQL; give a role "
        "that may only SELECT, and see docs/serving.md"
    )


class SqliteSource:
    """A file, opened for each query: what is committed to it, or put in its place, is seen by the next."""

    dialect = "sqlite"

    def __init__(self, path: Path) -> None:
        self._path = path

    def describe(self) -> str:
        with self._opened() as connection:
            return schema_text(schema_of(connection))

    def run(self, sql: str, limits: Limits) -> Cells:
        with self._opened() as connection:
            checked, _ = _guarded(sql, lambda only: schema_of(connection, only))
            connection.forgiving = True  # the guard has told strings from misspelt columns
            result = run_query(connection, checked.sql, limits.seconds, limits.rows)
        return to_cells(result.columns, result.rows, result.truncated)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            connection = open_database(self._path)
        except ExecutionError as error:
            raise DatabaseError(str(error)) from None
        with contextlib.closing(connection):
            yield connection


class ServerSource:
    """PostgreSQL, MySQL or MariaDB through SQLAlchemy; one connection, kept."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self.dialect = "postgres" if url.get_backend_name() == "postgresql" else "mysql"

    def __repr__(self) -> str:
        return f"ServerSource({self.name})"

    def close(self) -> None:
        """Drop the connection."""
        self._engine.dispose()

    @property
    def name(self) -> str:
        """Dialect, host and database; nothing of user, password or parameters."""
        port = f":{self._url.port}" if self._url.port else ""
        return f"{self._url.get_backend_name()}://{self._url.host or ''}{port}/{self._url.database or ''}"

    def describe(self) -> str:
        with self._transaction(Limits(seconds=30)) as connection:
            return schema_text(schema_behind(connection))

    def run(self, sql: str, limits: Limits) -> Cells:
        with self._transaction(limits) as connection:
            checked, schema = _guarded(sql, lambda only: schema_behind(connection, only))
            # No parameters, or drivers would take % for a placeholder; streamed, or they would fetch every row.
            asked = connection.execution_options(
                no_parameters=True, stream_results=True, max_row_buffer=max(min(limits.rows, 1_000), 1)
            )
            with contextlib.closing(asked.exec_driver_sql(render_sql(checked.sql, self.dialect, schema))) as result:
                rows = result.fetchmany(limits.rows + 1)
                return to_cells(list(result.keys()), rows[: limits.rows], len(rows) > limits.rows)

    @contextlib.contextmanager
    def _transaction(self, limits: Limits) -> Iterator[Connection]:
        """A connection in a read-only transaction that is rolled back; the driver's errors in our words."""
        from sqlalchemy.exc import DBAPIError, SQLAlchemyError

        connected = False
        try:
            with self._engine.connect() as connection:
                for statement in self._settings(connection, limits):
                    connection.exec_driver_sql(statement)
                connected = True
                try:
                    yield connection
                finally:
                    connection.rollback()
        except DBAPIError as error:
            if _code(error.orig) in _CANCELLED:
                raise QueryTimeoutError(f"ran longer than {limits.seconds:g} s") from None
            words = self._without_secrets(error.orig)
            if connected and not error.connection_invalidated:
                raise ExecutionError(words) from None
            raise DatabaseError(f"database {self.name} cannot be reached: {words}") from None
        except SQLAlchemyError as error:
            raise DatabaseError(f"database {self.name}: {self._without_secrets(error)}") from None

    @functools.cached_property
    def _engine(self) -> Engine:
        from sqlalchemy import create_engine
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError

        try:
            return create_engine(
                self._url, pool_size=1, max_overflow=0, pool_pre_ping=True, hide_parameters=True,
                connect_args={"connect_timeout": CONNECT_SECONDS, **self._password_in_bytes()},
            )  # fmt: skip
        except (ImportError, NoSuchModuleError):
            raise DatabaseError(f"no driver for {self._url.drivername}; install it: {self._driver_package}") from None
        except (ArgumentError, TypeError) as error:
            raise DatabaseError(f"database {self.name}: {self._without_secrets(error)}") from None

    def _password_in_bytes(self) -> dict[str, bytes]:
        """PyMySQL writes a password in Latin-1, where whoever set it wrote UTF-8."""
        password = str(self._url.password or "")
        return {"password": password.encode()} if self._url.get_driver_name() == "pymysql" and password else {}

    @property
    def _driver_package(self) -> str:
        driver = one_line(self._url.get_driver_name(), 40)
        return f'pip install "{_PACKAGES.get(driver, driver)}"'

    def _settings(self, connection: Connection, limits: Limits) -> list[str]:
        milliseconds = max(int(limits.seconds * 1000), 1)
        if self.dialect == "postgres":
            return [
                "SET TRANSACTION READ ONLY",
                f"SET LOCAL statement_timeout = {milliseconds}",
                f"SET LOCAL lock_timeout = {milliseconds}",
                "SET LOCAL standard_conforming_strings = on",
            ]
        limit = (
            f"SET SESSION max_statement_time = {limits.seconds:.3f}"
            if getattr(connection.dialect, "is_mariadb", False)
            else f"SET SESSION max_execution_time = {milliseconds}"
        )
        return [
            limit,
            f"SET SESSION sql_select_limit = {limits.rows + 1}",  # closing a half-read result would read all of it
            "SET SESSION TRANSACTION READ ONLY",
            "START TRANSACTION READ ONLY",
        ]

    def _without_secrets(self, error: object) -> str:
        """The error in one line; drivers may quote what they were given."""
        text = str(error)
        encoded = self._url.render_as_string(hide_password=False)
        secrets = {str(self._url.password or ""), encoded.partition("://")[2].rpartition("@")[0].partition(":")[2]}
        secrets |= {str(value) for value in self._url.query.values()}
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, "***") if secret else text
        return one_line(text, _MAX_ERROR_CHARS)


def _guarded(text: str, schema: Callable[[Collection[str]], Schema]) -> tuple[Checked, Schema]:
    """The query, held against the tables that it names; `schema` describes those of a set of lower-case names."""
    described = schema(table_names(first_statement(text)))
    checked = check(text, described)
    if not checked.valid:
        raise ExecutionError("; ".join(reason.message for reason in checked.reasons[:3]))
    return checked, described


def _code(error: object) -> str:
    """PostgreSQL's SQLSTATE, or MySQL's error number."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    arguments = getattr(error, "args", ())
    return str(state or (arguments[0] if arguments and isinstance(arguments[0], int) else ""))
