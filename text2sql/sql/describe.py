"""CREATE TABLE text for tables that exist: in SQLite, behind SQLAlchemy, in a CSV file.

The text is made of names, types and keys alone: what else an author wrote into his DDL, comments above all, reaches no
model, and the parser can read all of it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
import sqlite3
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from text2sql.errors import DataError, ExecutionError
from text2sql.sql.database import quote
from text2sql.sql.ddl import quoted
from text2sql.sql.schema import MAX_TABLES, Column, Schema, Table

if TYPE_CHECKING:
    from sqlalchemy import Connection, Inspector

MAX_COLUMNS = 2_000
MAX_NAME_CHARS = 128
_TYPE = re.compile(r"[A-Za-z]\w*(?: [A-Za-z]\w*)*(?:\s?\(\s*\d{1,9}\s*(?:,\s*\d{1,9}\s*)?\))?")
_LISTING = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT GLOB 'sqlite_*' ORDER BY rowid"
_AFTER_TYPE = re.compile(r" (?:COLLATE|CHARACTER SET|GENERATED|UNSIGNED|ZEROFILL)\b.*", re.IGNORECASE)
_SAMPLE_ROWS = 1_000
_SAMPLE_CHARS = 1_000_000
_DELIMITERS = ",;\t|"
_INTEGER = re.compile(r"[-+]?\d{1,18}")
_REAL = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_DATETIME = re.compile(r"\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[-+]\d{2}:?\d{2})?")
_KINDS = (("INTEGER", _INTEGER), ("REAL", _REAL), ("DATE", _DATE), ("TIMESTAMP", _DATETIME))


def schema_text(schema: Schema) -> str:
    """The schema as CREATE TABLE statements, one a line, with types, primary keys and foreign keys."""
    return ";\n".join(map(_create_table, schema.tables)) + ";" if schema.tables else ""


def schema_of(database: sqlite3.Connection, only: Collection[str] | None = None) -> Schema:
    """The tables and views of a SQLite database; views that do not work are left out.

    Args:
        only: lower-case names; other tables are left out.

    Raises:
        ExecutionError: the database cannot be read, or has more tables than can be used.
    """
    try:
        names = [str(name) for (name,) in database.execute(_LISTING)]
        names = _wanted(names, only)
        tables = [table for name in names if (table := _sqlite_table(database, name)) is not None]
    except sqlite3.Error as error:
        raise ExecutionError(f"the schema of the database cannot be read: {error}") from None
    return Schema(tuple(tables))


def schema_behind(connection: Connection, only: Collection[str] | None = None) -> Schema:
    """The tables and views of the default schema behind a SQLAlchemy connection.

    Raises:
        ExecutionError: there are more tables than can be used.
        sqlalchemy.exc.SQLAlchemyError: they cannot be read.
    """
    from sqlalchemy import inspect
    from sqlalchemy.engine.reflection import ObjectKind

    inspector = inspect(connection)
    names = _wanted([*inspector.get_table_names(), *inspector.get_view_names()], only)
    columns = _columns(inspector, names) if names else {}
    names = [name for name in names if name in columns]
    if not names:  # or all would be meant
        return Schema(())
    asked: dict[str, Any] = {"filter_names": names, "kind": ObjectKind.ANY}
    primary: dict[str, Any] = {key[1]: found for key, found in inspector.get_multi_pk_constraint(**asked).items()}
    foreign: dict[str, Any] = {key[1]: found for key, found in inspector.get_multi_foreign_keys(**asked).items()}
    tables = []
    for name in names:
        keys = (primary.get(name) or {}).get("constrained_columns") or []
        targets = {
            key["constrained_columns"][0]: (key["referred_table"], key["referred_columns"][0])
            for key in foreign.get(name) or []
            if len(key["constrained_columns"]) == 1
        }
        found = [
            Column(c["name"], _declared_type(c["type"], connection), [c["name"]] == keys, targets.get(c["name"]))
            for c in columns.get(name) or []
            if _usable(c["name"])
        ]
        if found:
            tables.append(Table(name, tuple(found[:MAX_COLUMNS])))
    return Schema(tuple(tables))


def _columns(inspector: Inspector, names: list[str]) -> dict[str, Any]:
    """The columns of each table and view, but for views that MySQL finds broken, or would write to describe."""
    from sqlalchemy.engine.reflection import ObjectKind
    from sqlalchemy.exc import DBAPIError, NoSuchTableError, UnreflectableTableError

    try:
        return {key[1]: found for key, found in inspector.get_multi_columns(None, names, ObjectKind.ANY).items()}
    except (DBAPIError, NoSuchTableError, UnreflectableTableError) as error:
        if inspector.dialect.name not in ("mysql", "mariadb") or getattr(error, "connection_invalidated", False):
            raise
    columns: dict[str, Any] = {}
    for name in names:
        with contextlib.suppress(DBAPIError, NoSuchTableError, UnreflectableTableError):
            columns[name] = inspector.get_columns(name)
    return columns


def schema_of_csv(text: str, name: str = "data") -> Schema:
    """One table from a CSV file's header, with types that hold for its first 1,000 rows.

    Comma, semicolon, tab or bar separate; a column without a name gets a number, a name that comes twice one too.

    Raises:
        DataError: there is no header.
    """
    sample = text[:_SAMPLE_CHARS].removeprefix("\ufeff")
    first_line = sample.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first_line.count)  # the first of them where none occurs
    try:
        rows = []
        for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter):
            if any(cell.strip() for cell in row):
                rows.append(row)
            if len(rows) > _SAMPLE_ROWS:
                break
    except csv.Error as error:
        raise DataError(f"the CSV file cannot be read: {error}; save it as UTF-8 with commas") from None
    if not rows:
        raise DataError("the CSV file is empty; its first line must name the columns")
    if len(text) > _SAMPLE_CHARS and len(rows) > 1:
        rows.pop()  # cut in the middle
    header, cells = rows[0][:MAX_COLUMNS], rows[1:]
    columns = [Column(n, _sniffed(row[i] for row in cells if i < len(row))) for i, n in enumerate(_unique(header))]
    stem = re.sub(r"\.[ct]sv$", "", name.rpartition("/")[2], flags=re.IGNORECASE)
    plain = re.sub(r"\W+", "_", stem, flags=re.ASCII).strip("_")[:60]
    return Schema((Table(plain if plain and not plain[0].isdigit() else f"t_{plain or 'data'}", tuple(columns)),))


def _create_table(table: Table) -> str:
    parts = [
        " ".join(filter(None, (quoted(c.name), c.type, "PRIMARY KEY" if c.primary else ""))) for c in table.columns
    ]
    for column in table.columns:
        if column.references and column.references[0]:
            other, key = column.references
            target = f"{quoted(other)} ({quoted(key)})" if key else quoted(other)
            parts.append(f"FOREIGN KEY ({quoted(column.name)}) REFERENCES {target}")
    return f"CREATE TABLE {quoted(table.name)} ({', '.join(parts)})"


def _wanted(names: Iterable[str], only: Collection[str] | None) -> list[str]:
    chosen = [name for name in names if _usable(name) and (only is None or name.lower() in only)]
    if len(chosen) > MAX_TABLES:
        raise ExecutionError(f"the database has {len(chosen)} tables and views; at most {MAX_TABLES} can be used")
    return chosen


def _usable(name: str) -> bool:
    """Names that a prompt can hold in one line."""
    return 0 < len(name) <= MAX_NAME_CHARS and name.isprintable()


def _sqlite_table(database: sqlite3.Connection, name: str) -> Table | None:
    try:
        rows = database.execute(f"PRAGMA table_xinfo({quote(name)})").fetchall()
        links = database.execute(f"PRAGMA foreign_key_list({quote(name)})").fetchall()
    except sqlite3.Error:  # a view over what is gone, a virtual table without its module
        return None
    composite = {link[0] for link in links if link[1] > 0}
    targets = {link[3]: (link[2], link[4] or "") for link in links if link[0] not in composite}
    keys = sum(row[5] > 0 for row in rows)
    columns = [
        Column(row[1], _plain_type(row[2]), primary=keys == 1 and row[5] > 0, references=targets.get(row[1]))
        for row in rows
        if row[6] != 1 and _usable(row[1])  # 1: hidden columns of virtual tables
    ]
    return Table(name, tuple(columns[:MAX_COLUMNS])) if columns else None


def _declared_type(kind: Any, connection: Connection) -> str:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return _plain_type(kind.compile(dialect=connection.dialect))
    except (SQLAlchemyError, AttributeError):  # a type that SQLAlchemy does not know
        return ""


def _plain_type(text: str) -> str:
    """A type's words and its size; what follows them, such as a collation or [], is left out."""
    match = _TYPE.match(text.strip())
    if not match or len(match.group()) > 60:
        return ""
    words = _AFTER_TYPE.sub("", match.group()).upper()
    return "TEXT" if words in ("ENUM", "SET") else words


def _sniffed(cells: Iterable[str]) -> str:
    values = [cell.strip() for cell in cells if cell.strip()]
    if any(re.fullmatch(r"[-+]?0\d+", value) for value in values):  # codes, not numbers
        return "TEXT"
    return next((kind for kind, form in _KINDS if values and all(map(form.fullmatch, values))), "TEXT")


def _unique(header: list[str]) -> list[str]:
    names: list[str] = []
    taken: set[str] = set()
    for number, cell in enumerate(header, 1):
        name = " ".join("".join(c if c.isprintable() else " " for c in cell).split())[:60] or f"column_{number}"
        while name.lower() in taken:
            name = f"{name}_{number}"
        taken.add(name.lower())
        names.append(name)
    return names
