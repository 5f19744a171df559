"""Which rows of a sorted result tie: their order is SQLite's choice, and no part of what the query says.

Reading the tables backwards does not show it. GROUP BY sorts its groups itself, so that those of one count always come
out by name.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from typing import NamedTuple

from sqlglot import exp

from text2sql.errors import SqlError
from text2sql.sql.execute import Result, run_query
from text2sql.sql.hints import literal
from text2sql.sql.parse import DIALECT


class Ties(NamedTuple):
    """The rows of a result that tie."""

    ends: tuple[int, ...] = ()
    """Where runs of them end, as numbers of rows; () without ties, and where that cannot be told."""
    cut: bool = False
    """LIMIT or OFFSET parts rows that tie: which of them are in the result is SQLite's choice too."""


def read_ties(connection: sqlite3.Connection, tree: exp.Expr, result: Result, timeout: float) -> Ties:
    """The ties in what a query, sorted at top level, gives on the database of the connection."""
    order = tree.args.get("order")
    if order is None or order.find(exp.Collate):  # texts that are equal by a collation would not look so
        return Ties()
    if not isinstance(tree, exp.Select) or tree.args.get("distinct"):  # another column would be another row
        places = [_place(ordered.this.unnest(), result.columns) for ordered in order.expressions]
        known = [place for place in places if place is not None]
        return _ties([tuple(row[i] for i in known) for row in result.rows] if len(known) == len(places) else [])
    if tree.is_star and any(_is_ordinal(ordered.this.unnest()) for ordered in order.expressions):
        return Ties()
    first, width = _offset(tree), len(result.columns)
    try:
        keyed = run_query(connection, _with_keys(tree), timeout).rows if first is not None else []
    except SqlError:
        return Ties()
    if first is None or Counter(result.rows) - Counter(row[:width] for row in keyed):  # keys made other rows of them
        return Ties()
    last = first + len(result.rows)
    cut = any(
        0 < end < len(keyed) and keyed[end - 1][width:] == keyed[end][width:] and keyed[end - 1] != keyed[end]
        for end in (first, last)
    )
    return _ties([row[width:] for row in keyed[first:last]], cut)


def _ties(keys: list[tuple[object, ...]], cut: bool = False) -> Ties:
    ends = tuple(i for i in range(1, len(keys) + 1) if i == len(keys) or keys[i] != keys[i - 1])
    return Ties(ends if len(ends) < len(keys) else (), cut)


def _offset(tree: exp.Select) -> int | None:
    """How many rows are passed over; None where that is no number."""
    offset = tree.args.get("offset")
    rows = literal(offset.expression) if offset is not None else 0
    return rows if isinstance(rows, int) and rows >= 0 else None


def _with_keys(tree: exp.Select) -> str:
    """The query without LIMIT, and with what it sorts by selected behind its own columns."""
    select = tree.copy()
    select.set("limit", None)
    select.set("offset", None)
    aliases = {p.alias.lower(): p.this for p in select.expressions if isinstance(p, exp.Alias)}
    keys = []
    for ordered in tree.args["order"].expressions:
        term = ordered.this.unnest()
        if _is_ordinal(term):
            term = tree.expressions[int(term.this) - 1].unalias()
        elif isinstance(term, exp.Column) and not term.table:
            term = aliases.get(term.name.lower(), term)
        keys.append(term.copy())
    select.set("expressions", [*select.expressions, *keys])
    return select.sql(dialect=DIALECT, comments=False)


def _is_ordinal(term: exp.Expr) -> bool:
    """Whether it is the number of a column, and no value."""
    return isinstance(term, exp.Literal) and not term.is_string and str(term.this).isdigit()


def _place(term: exp.Expr, columns: tuple[str, ...]) -> int | None:
    """The column of the result that a set operation, or SELECT DISTINCT, sorts by."""
    if _is_ordinal(term):
        return int(term.this) - 1
    names = [name.lower() for name in columns]
    if not isinstance(term, exp.Column) or term.table or names.count(term.name.lower()) != 1:
        return None
    return names.index(term.name.lower())
