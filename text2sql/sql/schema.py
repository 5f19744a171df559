"""Schemas: CREATE TABLE text to tables and columns."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from sqlglot import exp

from text2sql.errors import ParseError
from text2sql.sql.parse import parse_statements

MAX_CONTEXT_CHARS = 200_000
MAX_TABLES = 500

# Most contexts are lists of plain `name TYPE` columns: reading these without a parser is ten times as fast.
_PLAIN_TABLE = re.compile(r"\s*CREATE\s+TABLE\s+([A-Za-z_]\w*)\s*\(([\w\s,]*)\)\s*", re.IGNORECASE | re.ASCII)
_PLAIN_COLUMN = re.compile(r"\s*([A-Za-z_]\w*)\s+([A-Za-z]+)\s*", re.ASCII)
_NOT_PLAIN = frozenset({"PRIMARY", "FOREIGN", "UNIQUE", "CHECK", "CONSTRAINT", "KEY", "INDEX", "LIKE", "EXCLUDE"})
NUMBER_TYPE = re.compile(r"INT|REAL|FLOA|DOUB|NUM|DEC|BOOL|SERIAL|MONEY|BIT", re.IGNORECASE)
_DATE_TYPE = re.compile(r"DATE|TIME", re.IGNORECASE)


@dataclass(frozen=True)
class Column:
    """A column as declared; `references` is (table, column), the latter empty where the text leaves it out."""

    name: str
    type: str
    primary: bool = False
    references: tuple[str, str] | None = None
    required: bool = False
    """Declared NOT NULL."""
    unique: bool = False
    """Declared UNIQUE by itself."""

    @property
    def numeric(self) -> bool:
        """Declared with a number type."""
        return bool(NUMBER_TYPE.search(self.type))

    @property
    def boolean(self) -> bool:
        """Declared to hold 0 or 1."""
        return "BOOL" in self.type.upper()

    @property
    def temporal(self) -> bool:
        """Declared with a date or time type."""
        return bool(_DATE_TYPE.search(self.type))


@dataclass(frozen=True)
class Table:
    """A table and its columns, in the order of the text."""

    name: str
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column | None:
        """The column of that name; case does not count."""
        wanted = name.lower()
        return next((column for column in self.columns if column.name.lower() == wanted), None)


@dataclass(frozen=True)
class Schema:
    """Tables in the order of the text; one declared twice is listed twice."""

    tables: tuple[Table, ...]

    def table(self, name: str) -> Table | None:
        """The first table of that name; case does not count."""
        wanted = name.lower()
        return next((table for table in self.tables if table.name.lower() == wanted), None)

    def retype(self, types: dict[tuple[str, str], str]) -> Schema:
        """The schema with other types for some columns, by lower-case (table, column)."""

        def changed(table: Table) -> Table:
            key = table.name.lower()
            return Table(
                table.name,
                tuple(replace(c, type=types.get((key, c.name.lower()), c.type)) for c in table.columns),
            )

        return Schema(tuple(changed(table) for table in self.tables)) if types else self


def parse_schema(context: str) -> Schema:
    """The tables that CREATE TABLE statements declare.

    Raises:
        ParseError: no SQL, no table, a table without columns, another statement than CREATE TABLE, or over a limit.
    """
    schema = _parse_plain(context) or _parse_any(context)
    if len(schema.tables) > MAX_TABLES:
        raise ParseError(f"the schema has {len(schema.tables)} tables; at most {MAX_TABLES} are read")
    return schema


def _parse_plain(context: str) -> Schema | None:
    """The schema when every statement has the plain form, else None."""
    if len(context) > MAX_CONTEXT_CHARS:
        return None
    tables = []
    for statement in context.split(";"):
        if not statement.strip():
            continue
        match = _PLAIN_TABLE.fullmatch(statement)
        if not match:
            return None
        columns = [_PLAIN_COLUMN.fullmatch(part) for part in match.group(2).split(",")]
        if not all(column and column.group(1).upper() not in _NOT_PLAIN for column in columns):
            return None
        tables.append(
            Table(match.group(1), tuple(Column(c.group(1), c.group(2).upper()) for c in columns if c is not None))
        )
    return Schema(tuple(tables)) if tables else None


def _parse_any(context: str) -> Schema:
    tables = []
    for tree in parse_statements(context, MAX_CONTEXT_CHARS):
        if not isinstance(tree, exp.Create) or tree.kind != "TABLE" or not isinstance(tree.this, exp.Schema):
            raise ParseError(f"a schema holds CREATE TABLE statements with columns, not {tree.key.upper()}")
        tables.append(_table(tree.this))
    if not tables:
        raise ParseError("the schema holds no CREATE TABLE statement")
    return Schema(tuple(tables))


def _table(schema: exp.Schema) -> Table:
    name = schema.this.name
    columns = [
        # A name without a type is a column too; sqlglot leaves it an identifier.
        _column(definition) if isinstance(definition, exp.ColumnDef) else Column(definition.name, "")
        for definition in schema.expressions
        if isinstance(definition, exp.ColumnDef | exp.Identifier)
    ]
    if not columns:
        raise ParseError(f"table {name} has no columns")
    primary, unique = set[str](), set[str]()
    references: dict[str, tuple[str, str]] = {}
    for part in schema.expressions:
        node = part.expressions[0] if isinstance(part, exp.Constraint) and part.expressions else part
        if isinstance(node, exp.PrimaryKey) and len(node.expressions) == 1:
            primary.add(node.expressions[0].name.lower())
        elif isinstance(node, exp.UniqueColumnConstraint) and len(node.this.expressions) == 1:
            unique.add(node.this.expressions[0].name.lower())
        elif isinstance(node, exp.ForeignKey) and len(node.expressions) == 1:
            references[node.expressions[0].name.lower()] = _target(node.args.get("reference"))
    return Table(
        name,
        tuple(
            replace(
                column,
                primary=column.primary or column.name.lower() in primary,
                references=column.references or references.get(column.name.lower()),
                unique=column.unique or column.name.lower() in unique,
            )
            for column in columns
        ),
    )


def _column(definition: exp.ColumnDef) -> Column:
    kinds = [constraint.args.get("kind") for constraint in definition.args.get("constraints") or []]
    return Column(
        name=definition.name,
        type=definition.kind.sql().upper() if definition.kind else "",
        primary=any(isinstance(kind, exp.PrimaryKeyColumnConstraint) for kind in kinds),
        references=next((_target(kind) for kind in kinds if isinstance(kind, exp.Reference)), None),
        required=any(isinstance(k, exp.NotNullColumnConstraint) and not k.args.get("allow_null") for k in kinds),
        unique=any(isinstance(kind, exp.UniqueColumnConstraint) for kind in kinds),
    )


def _target(reference: exp.Expr | None) -> tuple[str, str]:
    if reference is None:
        return ("", "")
    target = reference.this
    if isinstance(target, exp.Schema):
        return (target.this.name, target.expressions[0].name if target.expressions else "")
    return (target.name, "")
