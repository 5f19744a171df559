"""Editing CREATE TABLE text piece by piece, so that what is not edited stays as it was written."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from sqlglot import exp

from text2sql.errors import ParseError
from text2sql.sql.parse import tokens

_BLANK = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*"
_NAME = re.compile(_BLANK + r"(\"(?:[^\"]|\"\")+\"|`(?:[^`]|``)+`|\[[^\]]+\]|\w+)", re.DOTALL)
_TABLE_NAME = re.compile(r"(\"(?:[^\"]|\"\")+\"|`(?:[^`]|``)+`|\[[^\]]+\]|\w+)\s*$")
_TYPE = re.compile(r"\s*[A-Za-z]\w*(?:\s*\([^()]*\))?")
_CONSTRAINT = re.compile(
    _BLANK + r"(?:PRIMARY|FOREIGN|UNIQUE|CHECK|CONSTRAINT|KEY|INDEX|LIKE|EXCLUDE)\b", re.IGNORECASE | re.DOTALL
)
_NO_NAMES = frozenset(
    """ANY CASE CONSTRAINT CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP EXCLUDE LIKE NOT NULL SELECT UNIQUE WITH
    """.split()  # noqa: SIM905
)
"""Words that the parser takes for something else than the name of a column, typed or not."""


@dataclass(frozen=True)
class TableText:
    """A CREATE TABLE statement: what stands before its list, the definitions in the list, and what stands after."""

    head: str
    definitions: tuple[str, ...]
    tail: str

    @property
    def name(self) -> str:
        """The table's name, without quotes."""
        match = _TABLE_NAME.search(self.head)
        return unquoted(match.group(1)) if match else ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, without quotes."""
        return tuple(name for name in map(column_name, self.definitions) if name is not None)

    def with_columns(self, definitions: tuple[str, ...]) -> TableText:
        """The table with more columns, behind its others and before its constraints."""
        end = next((i for i, text in enumerate(self.definitions) if column_name(text) is None), len(self.definitions))
        return replace(self, definitions=(*self.definitions[:end], *definitions, *self.definitions[end:]))

    def __str__(self) -> str:
        return f"{self.head}({','.join(self.definitions)}){self.tail}"


def split_tables(context: str) -> list[TableText]:
    """The statements of a schema; joined with ";" they are the text again.

    Raises:
        ParseError: a statement is no CREATE TABLE with a list.
    """
    return [_table(statement) for statement in _split(context, ";") if statement.strip()]


def join_tables(tables: list[TableText]) -> str:
    """The statements as one text."""
    return ";".join(map(str, tables))


def column_name(definition: str) -> str | None:
    """The column that a definition declares, or None where it is a constraint of the table."""
    match = _NAME.match(definition)
    if not match or _CONSTRAINT.match(definition):
        return None
    return unquoted(match.group(1))


def retyped_definition(definition: str, type_: str) -> str:
    """The definition with another type."""
    match = _NAME.match(definition)
    if not match:
        return definition
    head, rest = definition[: match.end()], definition[match.end() :]
    return f"{head} {type_}{_TYPE.sub('', rest, count=1)}"


def unquoted(name: str) -> str:
    """A name without its quotes."""
    if name[0] in '"`':
        return name[1:-1].replace(name[0] * 2, name[0])
    return name[1:-1] if name[0] == "[" else name


def quoted(name: str) -> str:
    """A name as DDL needs it: plain where that can be, else in double quotes."""
    plain = re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and name.upper() not in _NO_NAMES
    return name if plain else exp.to_identifier(name, quoted=True).sql(dialect="sqlite")


def _table(statement: str) -> TableText:
    start = end = -1
    depth = 0
    for match in tokens(statement):
        if match.group() == "(":
            start = match.start() if start < 0 else start
            depth += 1
        elif match.group() == ")":
            depth -= 1
            if not depth:
                end = match.start()
                break
    if start < 0 or end < 0:
        raise ParseError(f"no CREATE TABLE with a list of columns: {statement.strip()[:60]!r}")
    return TableText(statement[:start], tuple(_split(statement[start + 1 : end], ",")), statement[end + 1 :])


def _split(text: str, separator: str) -> list[str]:
    """The parts between separators that stand outside of quotes, comments and parentheses."""
    parts, start, depth, place = [], 0, 0, 0
    for match in [*tokens(text), None]:
        upto = match.start() if match else len(text)
        while not depth and (found := text.find(separator, place, upto)) >= 0:
            parts.append(text[start:found])
            start = place = found + 1
        if match:
            depth += {"(": 1, ")": -1}.get(match.group(), 0)
            place = match.end()
    return [*parts, text[start:]]
