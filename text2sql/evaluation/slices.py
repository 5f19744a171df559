"""Groups of test rows that a figure can hide, and the figures on each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sqlglot import exp

from text2sql.config import SLICE_DIMENSIONS
from text2sql.errors import SqlError
from text2sql.evaluation.hardness import hardness
from text2sql.evaluation.statistics import RowFigures
from text2sql.evaluation.types import SliceScores, TestRow
from text2sql.sql.parse import parse

UNKNOWN = "unknown"
"""Hardness and number of tables of a gold that does not parse."""

_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod)
_CONSTRUCTS: dict[str, Callable[[exp.Expr], bool]] = {
    "join": lambda node: bool(node.args.get("joins")),
    "group": lambda node: isinstance(node, exp.Group),
    "having": lambda node: isinstance(node, exp.Having),
    "order": lambda node: isinstance(node, exp.Order) and not isinstance(node.parent, exp.Window),
    "limit": lambda node: isinstance(node, exp.Limit | exp.Offset),
    "distinct": lambda node: isinstance(node, exp.Distinct),
    "aggregate": lambda node: isinstance(node, exp.AggFunc) and not isinstance(node.parent, exp.Window),
    "nested": lambda node: isinstance(node, exp.Select) and node.parent_select is not None,
    "set operation": lambda node: isinstance(node, exp.SetOperation),
    "like": lambda node: isinstance(node, exp.Like | exp.Glob),
    "between": lambda node: isinstance(node, exp.Between),
    "in": lambda node: isinstance(node, exp.In),
    "null": lambda node: isinstance(node, exp.Null),
    "or": lambda node: isinstance(node, exp.Or),
    "arithmetic": lambda node: isinstance(node, _ARITHMETIC),
    "case": lambda node: isinstance(node, exp.Case | exp.If),
    "window": lambda node: isinstance(node, exp.Window),
    "with": lambda node: isinstance(node, exp.With),
}
PLAIN = "plain"
"""The construct of a query that has none of the others: SELECT columns FROM a table, perhaps WHERE."""


def slices_of(gold: str, source: str = "") -> dict[str, tuple[str, ...]]:
    """The slices that a row counts in: its values by dimension, of SLICE_DIMENSIONS.

    hardness is Spider's, construct every one that the gold uses, tables the number of different ones that it reads
    ("3+" from three up), source what is given, if anything is.
    """
    try:
        tree = parse(gold)
        found = {"hardness": (str(hardness(tree)),), "construct": _constructs(tree), "tables": (_tables(tree),)}
    except (SqlError, RecursionError):
        found = {"hardness": (UNKNOWN,), "construct": (), "tables": (UNKNOWN,)}
    found["source"] = (source,) if source else ()
    return {dimension: found[dimension] for dimension in SLICE_DIMENSIONS}


def slice_scores(rows: Sequence[TestRow], systems: Mapping[str, RowFigures], resamples: int) -> list[SliceScores]:
    """Figures of every system on every slice of the rows, by dimension, and in one the largest slice first."""
    members: dict[tuple[str, str], list[int]] = {}
    for index, row in enumerate(rows):
        for dimension, values in row.slices.items():
            for value in values:
                members.setdefault((dimension, value), []).append(index)

    def place(slice_: tuple[str, str]) -> tuple[int, int, str]:
        dimension, value = slice_
        return SLICE_DIMENSIONS.index(dimension), -len(members[slice_]), value

    scores = []
    for dimension, value in sorted(members, key=place):
        places = members[dimension, value]
        found = {name: of_rows.at(places).summary(resamples) for name, of_rows in systems.items()}
        figures = {name: figures for name, (figures, _) in found.items()}
        intervals = {name: ends for name, (_, ends) in found.items()}
        scores.append(SliceScores(dimension, value, len(places), figures, intervals))
    return scores


def _constructs(tree: exp.Expr) -> tuple[str, ...]:
    nodes = list(tree.walk())
    used = tuple(name for name, is_one in _CONSTRUCTS.items() if any(is_one(node) for node in nodes))
    return used or (PLAIN,)


def _tables(tree: exp.Expr) -> str:
    """How many different tables are read; what a CTE names is none."""
    ctes = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    count = len({table.name.lower() for table in tree.find_all(exp.Table)} - ctes)
    return str(count) if count < 3 else "3+"
