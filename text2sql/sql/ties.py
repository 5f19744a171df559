"""Which rows of a sorted result tie: their order is SQLite's choice, and no part of what the query says.

Reading the tables backwards does not show it. GROUP BY sorts its groups itself, so that those of one count always come
out by name.
"""

from __future__ import annotations

import sqlite3

from sqlglot import exp

from text2sql.errors import SqlError
from text2sql.sql.execute import Result, run_query
from text2sql.sql.parse import DIALECT


def tied_runs(connection: sqlite3.Connection, tree: exp.Expr, result: Result, timeout: float) -> tuple[int, ...]:
    """Where runs of rows that tie end, as numbers of rows; () without ties, and where that cannot be told.

    Args:
        tree: the query, sorted at top level.
        result: what it gives on the database of the connection.
    """
    keys = _keys(connection, tree, result, timeout)
    ends = tuple(i for i in range(1, len(keys) + 1) if i == len(keys) or keys[i] != keys[i - 1])
    return ends if len(ends) < len(keys) else ()


def _keys(connection: sqlite3.Connection, tree: exp.Expr, result: Result, timeout: float) -> list[tuple[object, ...]]:
    """By row, what it is sorted by."""
    order = tree.args.get("order")
    if order is None or order.find(exp.Collate):  # texts that are equal by a collation would not look so
        return []
    if not isinstance(tree, exp.Select):
        places = [_place(ordered.this, result.columns) for ordered in order.expressions]
        known = [place for place in places if place is not None]
        return [tuple(row[i] for i in known) for row in result.rows] if len(known) == len(places) else []
    width = len(result.columns)
    try:
        keyed = run_query(connection, _with_keys(tree), timeout)
    except SqlError:
        return []
    return [row[width:] for row in keyed.rows] if [row[:width] for row in keyed.rows] == result.rows else []


def _with_keys(tree: exp.Select) -> str:
    """The query, with what it sorts by selected behind its own columns."""
    select = tree.copy()
    aliases = {p.alias.lower(): p.this for p in select.expressions if isinstance(p, exp.Alias)}
    keys = []
    for ordered in tree.args["order"].expressions:
        term = ordered.this
        if isinstance(term, exp.Literal) and str(term.this).isdigit() and not (term.is_string or tree.is_star):
            term = tree.expressions[int(term.this) - 1].unalias()
        elif isinstance(term, exp.Column) and not term.table:
            term = aliases.get(term.name.lower(), term)
        keys.append(term.copy())
    select.set("expressions", [*select.expressions, *keys])
    return select.sql(dialect=DIALECT, comments=False)


def _place(term: exp.Expr, columns: tuple[str, ...]) -> int | None:
    """The column that a set operation sorts by."""
    if isinstance(term, exp.Literal) and not term.is_string:
        return int(term.this) - 1
    names = [name.lower() for name in columns]
    return names.index(term.name.lower()) if isinstance(term, exp.Column) and term.name.lower() in names else None
