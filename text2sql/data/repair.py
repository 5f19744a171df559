"""Mending a row where only one meaning is possible; anything else is left as it is, for the check to reject.

| kind             | what is wrong                                       | what is done                            |
|------------------|-----------------------------------------------------|-----------------------------------------|
| quoted_text      | "text" in double quotes names no column             | it becomes the string 'text'            |
| table_merged     | a table is created twice                            | once, with the columns of both          |
| column_duplicate | a table has a column twice                          | once                                    |
| column_added     | the query uses a column that no table has           | the one table it can belong to gets it  |
| type_corrected   | every use of a column contradicts its declared type | the type that the uses ask for          |

The first, on 20% of sql-create-context, hides others: SQLite forgives "text", and a misspelt column with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlglot import exp

from text2sql.data.column_types import Uses, conflicts, contradicted, sort_of
from text2sql.errors import SqlError
from text2sql.sql.ddl import TableText, column_name, join_tables, quoted, retyped_definition, split_tables
from text2sql.sql.hints import Key, is_quoted_text, read_hints
from text2sql.sql.parse import parse
from text2sql.sql.schema import Column, Schema, Table, parse_schema
from text2sql.sql.scopes import Scopes

KINDS = ("quoted_text", "table_merged", "column_duplicate", "column_added", "type_corrected")

_COMPARED = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.Is, exp.Like, exp.ILike, exp.Glob)
_ROW_IDS = frozenset({"rowid", "_rowid_", "oid"})


@dataclass(frozen=True)
class Repaired:
    """A row's texts, mended, and the kinds of repair, each once, in the order of `KINDS`."""

    context: str
    answer: str
    repairs: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    """Comparisons of a number with text that have no single remedy, as table.column."""
    tree: exp.Expr | None = field(default=None, compare=False, repr=False)
    """The answer's, where it parses: to parse is half of the work."""


def repair(context: str, answer: str) -> Repaired:
    """The row with every fault mended that has one remedy; a row without such faults comes back as it is.

    Repairing what has been repaired changes nothing. Text that does not parse is left to the check.
    """
    try:
        schema = parse_schema(context)
        merged = _merge(context, schema)
        if merged.repairs:
            schema = parse_schema(merged.context)
        tree = parse(answer)
        query = _Query(tree, schema)
    except SqlError:
        return Repaired(context, answer)
    if merged.disputed:  # of two types, which?
        uses = Uses(read_hints(tree, schema))
        if any(uses.asked_type(key) is None for key in merged.disputed):
            return Repaired(context, answer, tree=tree)
    context, found = merged.context, list(merged.repairs)
    if query.strings:
        answer, found = _with_strings(answer, query.strings), [*found, "quoted_text"]
        tree = parse(answer)
    if query.missing:
        uses = Uses(read_hints(tree, _with_missing(schema, query.missing)))
        context, schema = _add_columns(context, schema, query.missing, uses)
        found.append("column_added")
    uses = Uses(read_hints(tree, schema))
    types = contradicted(schema, uses)
    if types:
        context, schema = _retype(context, types), schema.retype(types)
        found.append("type_corrected")
    kinds = tuple(kind for kind in KINDS if kind in found)
    return Repaired(context, answer, kinds, conflicts(schema, uses), tree)


@dataclass(frozen=True)
class _Merged:
    """A schema with one CREATE TABLE a table and one definition a column."""

    context: str
    repairs: tuple[str, ...] = ()
    disputed: frozenset[Key] = frozenset()
    """Columns that were declared as numbers in one place and as text in another."""


def _merge(context: str, schema: Schema) -> _Merged:
    names = [table.name.lower() for table in schema.tables]
    twice = len(set(names)) < len(names)
    doubled = any(len({c.name.lower() for c in t.columns}) < len(t.columns) for t in schema.tables)
    if not twice and not doubled:
        return _Merged(context)
    tables: dict[str, TableText] = {}
    for table in split_tables(context):
        first = tables.get(table.name.lower())
        tables[table.name.lower()] = table if first is None else _both(first, table)
    sorts: dict[Key, set[str]] = {}
    for known in schema.tables:
        for column in known.columns:
            sorts.setdefault((known.name.lower(), column.name.lower()), set()).add(sort_of(column))
    return _Merged(
        join_tables([_once(table) for table in tables.values()]),
        ("table_merged",) * twice + ("column_duplicate",) * doubled,
        frozenset(key for key, found in sorts.items() if {"number", "text"} <= found),
    )


def _both(first: TableText, second: TableText) -> TableText:
    """The columns of both, and the constraints of the second that the first lacks."""
    columns = tuple(text for text in second.definitions if column_name(text) is not None)
    both = first.with_columns(_spaced(columns, first))
    kept = {_squeezed(text) for text in both.definitions}
    rules = (text for text in second.definitions if column_name(text) is None and _squeezed(text) not in kept)
    return TableText(both.head, (*both.definitions, *rules), both.tail)


def _once(table: TableText) -> TableText:
    """The first definition of every column, and all constraints."""
    seen: set[str] = set()
    kept: list[str] = []
    for text in table.definitions:
        name = column_name(text)
        if name is not None and name.lower() in seen:
            continue
        seen |= {name.lower()} if name is not None else set()
        kept.append(text if kept else text.lstrip())
    return TableText(table.head, tuple(kept), table.tail)


class _Query:
    """What a query uses that its schema lacks."""

    def __init__(self, tree: exp.Expr, schema: Schema) -> None:
        self._schema = schema
        self._scopes = Scopes(tree, schema)
        self._aliases = {node.alias.lower() for node in tree.find_all(exp.Alias)}
        self.strings: list[exp.Identifier] = []
        """Quoted names that can only be strings."""
        self.missing: dict[str, dict[str, str]] = {}
        """Lower-case table → lower-case column → the column as the query writes it."""
        for column in tree.find_all(exp.Column):
            if isinstance(column.this, exp.Identifier) and not self._known(column):
                self._place(column)

    def _known(self, column: exp.Column) -> bool:
        name = column.name.lower()
        if name in _ROW_IDS or (not column.table and name in self._aliases):
            return True
        scope = self._scopes.of(column)
        while scope is not None:
            for alias, table in scope.sources.items():
                if column.table and alias != column.table.lower():
                    continue
                if table is None or table.column(name):  # what a subquery or an unknown table has is not known here
                    return True
            scope = scope.parent
        return False

    def _place(self, column: exp.Column) -> None:
        if is_quoted_text(column, frozenset()):
            if self._is_value(column):
                self.strings.append(column.this)
            return
        table = self._owner(column)
        if table is not None:
            self.missing.setdefault(table.name.lower(), {}).setdefault(column.name.lower(), column.name)

    def _is_value(self, column: exp.Column) -> bool:
        """Whether "text" is compared with a column that exists: with a constant, it may be a misspelt column itself."""
        node: exp.Expr = column
        while isinstance(node.parent, exp.Paren | exp.Collate | exp.Lower | exp.Upper | exp.Trim | exp.Escape):
            node = node.parent
        parent = node.parent
        if isinstance(parent, exp.In):
            return node is not parent.this and self._holds_column(parent.this)
        if isinstance(parent, exp.Between):
            return node is not parent.this and self._holds_column(parent.this)
        if isinstance(parent, _COMPARED):
            other = parent.expression if node is parent.this else parent.this
            return self._holds_column(other)
        return False

    def _holds_column(self, node: exp.Expr) -> bool:
        return isinstance(node.unnest(), exp.Query) or any(
            self._known(column) or not is_quoted_text(column, frozenset()) for column in node.find_all(exp.Column)
        )

    def _owner(self, column: exp.Column) -> Table | None:
        """The table that a column must belong to: the one that qualifies it, or the only one in sight."""
        scope = self._scopes.of(column)
        if column.table:
            while scope is not None and column.table.lower() not in scope.sources:
                scope = scope.parent
            return scope.sources[column.table.lower()] if scope is not None else None
        if _may_be_a_string(column):
            return None
        in_sight: dict[str, Table] = {}
        while scope is not None:  # the tables of an outer query can be meant in an inner one
            in_sight |= {table.name.lower(): table for table in scope.sources.values() if table is not None}
            scope = scope.parent
        return next(iter(in_sight.values())) if len(in_sight) == 1 else None


def _may_be_a_string(column: exp.Column) -> bool:
    """WHERE name = John: as likely a string that lacks its quotes as a column."""
    parent = column.parent
    if not isinstance(parent, exp.EQ | exp.NEQ) or not isinstance(parent.this, exp.Column):
        return False
    other = parent.expression if column is parent.this else parent.this
    return isinstance(other, exp.Column) and not is_quoted_text(other, frozenset())


def _with_strings(answer: str, names: list[exp.Identifier]) -> str:
    """The query with quoted names written as strings, everything else as it was."""
    for name in sorted(names, key=lambda node: -int(node.meta["start"])):
        literal = exp.Literal.string(name.name).sql(dialect="sqlite")
        answer = answer[: name.meta["start"]] + literal + answer[name.meta["end"] + 1 :]
    return answer


def _with_missing(schema: Schema, missing: dict[str, dict[str, str]]) -> Schema:
    """The schema with the missing columns, their types still open."""
    return Schema(
        tuple(
            Table(t.name, (*t.columns, *(Column(name, "") for name in missing.get(t.name.lower(), {}).values())))
            for t in schema.tables
        )
    )


def _add_columns(context: str, schema: Schema, missing: dict[str, dict[str, str]], uses: Uses) -> tuple[str, Schema]:
    """Columns of the type that their uses ask for, else that of the columns they are compared with, else text."""
    text_type = next((t for t in re.findall(r"\b(?:VARCHAR|TEXT|STRING)\b", context, re.IGNORECASE)), "VARCHAR")
    declared = {(t.name.lower(), c.name.lower()): c.type for t in schema.tables for c in t.columns}

    def type_of(key: Key) -> str:
        beside = {declared[other] for other in uses.linked(key) if declared.get(other)}
        return uses.asked_type(key) or (beside.pop() if len(beside) == 1 else text_type)

    def added(table: TableText) -> TableText:
        key = table.name.lower()
        definitions = [f"{quoted(name)} {type_of((key, lower))}" for lower, name in missing.get(key, {}).items()]
        return table.with_columns(_spaced(tuple(definitions), table)) if definitions else table

    context = _edited(context, added)
    return context, parse_schema(context)


def _retype(context: str, types: dict[Key, str]) -> str:
    def changed(table: TableText) -> TableText:
        name = table.name.lower()
        return TableText(
            table.head,
            tuple(
                retyped_definition(text, types[name, column.lower()])
                if (column := column_name(text)) is not None and (name, column.lower()) in types
                else text
                for text in table.definitions
            ),
            table.tail,
        )

    return _edited(context, changed)


def _edited(context: str, edit: Callable[[TableText], TableText]) -> str:
    end = context[len(context.rstrip("; \n\t")) :]
    return join_tables([edit(table) for table in split_tables(context[: len(context) - len(end)])]) + end


def _spaced(definitions: tuple[str, ...], table: TableText) -> tuple[str, ...]:
    """Definitions with the blanks that the table has before its own."""
    model = table.definitions[-1]
    blank = model[: len(model) - len(model.lstrip())] if len(table.definitions) > 1 else " "
    return tuple(blank + text.strip() for text in definitions)


def _squeezed(text: str) -> str:
    return " ".join(text.split()).lower()
