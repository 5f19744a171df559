"""What is wrong with an answer: a code, and one line that helps to mend it by naming what may have been meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, get_args

from sqlglot import exp

from text2sql.sql.hints import column_names
from text2sql.sql.names import names_of
from text2sql.sql.parse import one_line
from text2sql.sql.schema import Schema, Table
from text2sql.sql.scopes import Scopes

Code = Literal[
    "not_sql",
    "not_one_statement",
    "not_read_only",
    "not_allowed",
    "function_not_allowed",
    "unknown_table",
    "unknown_column",
    "ambiguous_column",
    "unknown_function",
    "does_not_plan",
    "does_not_run",
    "timed_out",
    "schema_unusable",
]
CODES: tuple[Code, ...] = get_args(Code)
MAX_MESSAGE_CHARS = 300
_NEAREST = 3
_CANDIDATES = 2_000
"""Names among which the nearest are looked for."""
_CLOSE = 0.75
_SYSTEM_COLUMNS = frozenset({"rowid", "oid", "_rowid_"})
_PLAIN = re.compile(r"\w{2,60}")
_OBJECTIONS: tuple[tuple[str, Code], ...] = (
    ("no such table: ", "unknown_table"),
    ("no such column: ", "unknown_column"),
    ("ambiguous column name: ", "ambiguous_column"),
    ("no such function: ", "unknown_function"),
)
"""What SQLite's messages begin with, before the name."""
_SYNTAX = re.compile(r"syntax error$|^incomplete input|^unrecognized token")


class Reason(NamedTuple):
    """Why an answer may not leave; the message is one line of at most MAX_MESSAGE_CHARS."""

    code: Code
    message: str


def reason(code: Code, message: str) -> Reason:
    """A reason whose message is one printable line, whatever it was made from."""
    return Reason(code, one_line(message, MAX_MESSAGE_CHARS))


class Objections:
    """The names that a query uses, against those that its schema has."""

    def __init__(self, tree: exp.Expr, schema: Schema) -> None:
        self._tree, self._schema = tree, schema
        self._scopes = Scopes(tree, schema)
        self._invented, self._strings = names_of(tree, schema)

    def to_message(self, message: str) -> Reason:
        """What SQLite said, with the names that may have been meant."""
        for words, code in _OBJECTIONS:
            if message.startswith(words):
                name = message.removeprefix(words)
                if code == "unknown_table":
                    return self._unknown_table(name)
                if code == "unknown_column":
                    return self._unknown_column(name.rpartition(".")[2], None)
                if code == "ambiguous_column":
                    return reason(code, f"column {name} stands in several of the tables; qualify it")
                return reason(code, f"no such function: {name}; SQLite's own functions can be used")
        return reason("not_sql" if _SYNTAX.search(message) else "does_not_plan", message)

    def to_names(self) -> Iterator[Reason]:
        """Every table that the schema lacks, then every column."""
        for invented in self._invented:
            if invented.kind == "table":
                yield self._unknown_table(invented.name)
            else:
                yield self._unknown_column(invented.name.rpartition(".")[2], invented.node)
        yield from self._misspellings()

    def to_what_sqlite_forgives(self) -> Iterator[Reason]:
        """What it let pass and the schema does not have: text in double quotes that is no string, and row ids."""
        for column in self._tree.find_all(exp.Column):
            if column.name.lower() in _SYSTEM_COLUMNS and not self._is_given(column):
                yield self._unknown_column(column.name, column)
        for invented in self._invented:
            if invented.is_read_as_text:
                yield self._unknown_column(invented.name, invented.node)
        yield from self._misspellings()

    def _misspellings(self) -> Iterator[Reason]:
        """Text in double quotes that could be a string, and is so near to a column that it is none."""
        columns = {column.name.lower() for table in self._tables() for column in table.columns}
        for text in self._strings:
            if not _is_compared_with_a_column(text) and any(_is_misspelling(text.name.lower(), c) for c in columns):
                yield self._unknown_column(text.name, text)

    def _is_given(self, column: exp.Column) -> bool:
        """Whether a table in reach, or the query itself, gives something the name of a row id: every table has one."""
        name, qualifier = column.name.lower(), column.table.lower()
        if not qualifier and name in column_names(self._tree, Schema(())):
            return True
        somewhere = name in column_names(self._tree, self._schema)
        scope = self._scopes.of(column)
        while scope is not None:
            tables = [table for alias, table in scope.sources.items() if qualifier in ("", alias)]
            if any(table.column(name) if table else somewhere for table in tables):
                return True
            scope = scope.parent
        return False

    def _tables(self) -> list[Table]:
        """The tables of the schema that the query reads, each once."""
        return list({id(t): t for scope in self._scopes.all for t in scope.sources.values() if t}.values())

    def _unknown_table(self, name: str) -> Reason:
        near = _nearest(name, (table.name for table in self._schema.tables))
        return reason("unknown_table", f"no table {_shown(name)} in the schema{_listed('; nearest', near)}")

    def _unknown_column(self, name: str, column: exp.Column | None) -> Reason:
        tables = self._tables()
        scope, qualifier = (self._scopes.of(column), column.table) if column is not None else (None, "")
        while scope is not None and qualifier and qualifier.lower() not in scope.sources:
            scope = scope.parent
        if qualifier and scope is None:
            return reason("unknown_column", f"{_shown(qualifier)}.{_shown(name)}: the query has no {_shown(qualifier)}")
        if qualifier and scope is not None and (table := scope.sources[qualifier.lower()]):
            tables = [table]
        where = " in " + ", ".join(_shown(table.name) for table in tables[:3]) if tables else ""
        owners = [table.name for table in self._schema.tables if table.column(name) and table not in tables]
        near = _nearest(name, (c.name for table in tables for c in table.columns))
        hint = _listed("; it is a column of", owners[:_NEAREST]) or _listed("; nearest", near)
        return reason("unknown_column", f"no column {_shown(name)}{where}{hint}")


def _is_compared_with_a_column(text: exp.Expr) -> bool:
    """Whether it stands where the value of a column is asked for, so that looking like a name says nothing."""
    parent = text.parent
    if isinstance(parent, exp.In):
        return text is not parent.this
    if not isinstance(parent, exp.Binary):
        return False
    other = parent.args["expression"] if text is parent.this else parent.this
    return isinstance(other, exp.Column | exp.Func) and not (
        isinstance(other, exp.Column) and bool(other.this.args.get("quoted"))
    )


def _is_misspelling(text: str, name: str) -> bool:
    """Whether a word is nearly a name, or is it."""
    return bool(_PLAIN.fullmatch(text)) and difflib.SequenceMatcher(None, text, name).ratio() >= _CLOSE


def _nearest(name: str, candidates: Iterable[str]) -> list[str]:
    by_lower: dict[str, str] = {}
    for candidate in candidates:
        by_lower.setdefault(candidate.lower()[:60], candidate)
        if len(by_lower) == _CANDIDATES:
            break
    found = difflib.get_close_matches(name.lower()[:60], by_lower, n=_NEAREST, cutoff=0.5)
    return [by_lower[match] for match in found]


def _listed(words: str, names: list[str]) -> str:
    return f"{words} {', '.join(map(_shown, names))}" if names else ""


def _shown(name: str) -> str:
    return one_line(name, 60)
