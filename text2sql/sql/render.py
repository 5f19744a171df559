"""A SQLite query in the words of another database."""

from __future__ import annotations

import difflib
import re

from sqlglot import Dialect, Dialects, exp
from sqlglot.errors import ErrorLevel, SqlglotError
from sqlglot.optimizer.annotate_types import annotate_types

from text2sql.errors import SqlError, UnsafeSqlError
from text2sql.sql.hints import column_names, is_quoted_text
from text2sql.sql.parse import DIALECT, assert_read_only, parse
from text2sql.sql.schema import Schema

_NOT_SQL = frozenset({"", "dax", "prql", "solr", "tableau"})
DIALECTS: tuple[str, ...] = tuple(sorted(dialect.value for dialect in Dialects if dialect.value not in _NOT_SQL))
_OTHER_NAMES = {"postgresql": "postgres", "mssql": "tsql", "sqlserver": "tsql", "mariadb": "mysql"}
_LIKE_IGNORES_CASE = frozenset({"sqlite", "mysql", "tsql", "fabric", "doris", "starrocks"})
_KNOWS_NOW = frozenset({"sqlite", "postgres", "duckdb", "redshift", "materialize", "risingwave"})
_PLAIN_LOWER = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)


def dialect_named(name: str) -> str:
    """sqlglot's name of a dialect; case does not count, and a few usual other names are known.

    Raises:
        SqlError: there is no such dialect; lists those that there are.
    """
    wanted = name.strip().lower()
    wanted = _OTHER_NAMES.get(wanted, wanted)
    if wanted in DIALECTS:
        return wanted
    near = difflib.get_close_matches(wanted[:40], [*DIALECTS, *_OTHER_NAMES], n=1)
    meant = f"; did you mean {near[0]}?" if near else ";"
    raise SqlError(f"no dialect {name[:40]!r}{meant} known are {', '.join(DIALECTS)}")


def render_sql(sql: str, dialect: str, schema: Schema | None = None) -> str:
    """One query as another database writes it, comments left out; for SQLite the text as it is.

    LIKE becomes ILIKE where LIKE heeds case, as SQLite's does not, and a division of integers stays one where / makes
    fractions. With the schema, columns of integers are known as such, double-quoted text that names no column becomes a
    string, and names are written as declared, so that databases that heed their case find them.

    Raises:
        SqlError: no such dialect, no query, or something in it has no counterpart there.
    """
    dialect = dialect_named(dialect)
    tree = parse(sql)
    assert_read_only(tree)
    if dialect == DIALECT:
        return sql
    try:
        if schema is not None:
            tree = _declared(tree, schema)
        _assert_known_there(tree, dialect)
        if dialect not in _LIKE_IGNORES_CASE:
            for like in list(tree.find_all(exp.Like)):
                like.replace(exp.ILike(this=like.this, expression=like.expression))
        if not (there := Dialect.get_or_raise(dialect)).TYPED_DIVISION:
            _divide_integers(tree, schema, is_safe=bool(there.SAFE_DIVISION))
        text = tree.sql(dialect=dialect, unsupported_level=ErrorLevel.RAISE, comments=False)
    except SqlglotError as error:
        raise SqlError(f"the query cannot be written for {dialect}: {' '.join(str(error).split())[:200]}") from None
    except (RecursionError, ValueError, TypeError, AttributeError, KeyError) as error:  # the last four: sqlglot's bugs
        raise SqlError(f"the query cannot be written for {dialect}: {type(error).__name__} in sqlglot") from None
    if not text.lstrip(" (").upper().startswith(("SELECT", "WITH")):
        raise UnsafeSqlError(f"written for {dialect}, the query would start with {text[:30]!r}")
    return text


def _assert_known_there(tree: exp.Expr, dialect: str) -> None:
    """sqlglot passes through what it does not know, and the other database would refuse or misread it."""
    for node in tree.find_all(exp.Anonymous, exp.Glob, exp.Collate, exp.Literal):
        lost = ""
        if isinstance(node, exp.Anonymous):
            lost = f"function {node.name.lower()}"
        elif isinstance(node, exp.Glob):
            lost = "GLOB"
        elif isinstance(node, exp.Collate):
            lost = f"COLLATE {node.expression.name}"
        elif node.is_string and str(node.this).lower() == "now" and _is_date_argument(node):
            lost = "" if dialect in _KNOWS_NOW else "the date 'now'"
        if lost:
            raise SqlError(f"the query cannot be written for {dialect}: {lost} is SQLite's own")


def _is_date_argument(node: exp.Expr) -> bool:
    return isinstance(node.parent, exp.Func | exp.Cast) and not isinstance(node.parent, exp.Binary)


def _divide_integers(tree: exp.Expr, schema: Schema | None, is_safe: bool) -> None:
    """Write out that integers divide to an integer, and by zero to NULL where that is not `is_safe` by itself.

    A name is an integer where all tables that have it say so.
    """
    whole: dict[str, bool] = {}
    for declared in (column for table in (schema.tables if schema else ()) for column in table.columns):
        name = declared.name.lower()
        whole[name] = whole.get(name, True) and "INT" in declared.type.upper()  # SQLite's rule
    for column in tree.find_all(exp.Column):
        if whole.get(column.name.lower()):
            column.type = exp.DataType.build("INT")
    annotate_types(tree, dialect=DIALECT, overwrite_types=False)
    for division in list(tree.find_all(exp.Div)):
        if all(side.is_type(*exp.DataType.INTEGER_TYPES) for side in (division.left, division.right)):
            divisor = division.right
            if not is_safe and not (isinstance(divisor, exp.Literal) and divisor.to_py()):
                divisor = exp.Nullif(this=divisor, expression=exp.Literal.number(0))
            division.replace(exp.IntDiv(this=division.left, expression=divisor))


def _declared(tree: exp.Expr, schema: Schema) -> exp.Expr:
    known = column_names(tree, schema)
    for column in list(tree.find_all(exp.Column)):
        if is_quoted_text(column, known):
            column.replace(exp.Literal.string(column.name))
    tables = {table.name.lower(): table.name for table in schema.tables}
    columns = {column.name.lower(): column.name for table in schema.tables for column in table.columns}
    own = {alias.alias.lower() for alias in tree.find_all(exp.Alias, exp.CTE, exp.TableAlias) if alias.alias}
    for node in tree.find_all(exp.Table, exp.Column):
        if isinstance(node.this, exp.Identifier):
            _rename(node.this, tables if isinstance(node, exp.Table) else columns, own)
        if isinstance(node, exp.Column) and isinstance(qualifier := node.args.get("table"), exp.Identifier):
            _rename(qualifier, tables, own)
    return tree


def _rename(identifier: exp.Identifier, declared: dict[str, str], own: set[str]) -> None:
    """The declared spelling, quoted where it is not plain lower case; a name that the query defines stays."""
    lower = identifier.name.lower()
    if lower in own or lower not in declared:
        return
    name = declared[lower]
    identifier.set("this", name)
    identifier.set("quoted", identifier.args.get("quoted") or not _PLAIN_LOWER.fullmatch(name))
