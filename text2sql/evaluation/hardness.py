"""How hard a query is, by the rules of Spider (Yu et al. 2018, "Spider: A Large-Scale Human-Labeled Dataset …").

The rules are those that Spider's own evaluation counts by, oddities included, so that figures compare with published
ones: only the first SELECT of a set operation counts, with its own clauses; NOT counts as an aggregate, and so does
each AND or OR in HAVING, while an aggregate in HAVING does not; a subquery in FROM counts for nothing. What Spider's
grammar lacks counts as what is nearest: a CTE, EXISTS or a subquery in the SELECT list as a nested query, a window
function as an aggregate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sqlglot import exp

Hardness = Literal["easy", "medium", "hard", "extra"]

_AGGREGATES = (exp.Max, exp.Min, exp.Count, exp.Sum, exp.Avg, exp.GroupConcat, exp.Window)


@dataclass(frozen=True)
class Components:
    """What is counted."""

    clauses: int
    """WHERE, GROUP BY, ORDER BY and LIMIT, if there; each JOIN, each OR, each LIKE."""
    nested: int
    """Queries within conditions, CTEs, and a set operation."""
    others: int
    """One each for: several aggregates, several selected columns, several conditions in WHERE, several in GROUP BY."""


def hardness(tree: exp.Expr) -> Hardness:
    """easy, medium, hard or extra."""
    counted = components(tree)
    clauses, nested, others = counted.clauses, counted.nested, counted.others
    if clauses <= 1 and not others and not nested:
        return "easy"
    if not nested and ((clauses <= 1 and others <= 2) or (clauses <= 2 and others < 2)):
        return "medium"
    plain = not nested and ((clauses <= 2 and others > 2) or (clauses == 3 and others <= 2))
    return "hard" if plain or (clauses <= 1 and not others and nested <= 1) else "extra"


def components(tree: exp.Expr) -> Components:
    """The counts of one query."""
    select, nested = _first_select(tree)
    where, group, order, limit = (select.args.get(name) for name in ("where", "group", "order", "limit"))
    conditions = [*_join_conditions(select), where, select.args.get("having")]
    clauses = sum(part is not None for part in (where, group, order, limit)) + len(select.args.get("joins") or [])
    clauses += sum(isinstance(node, exp.Or | exp.Like | exp.Glob) for part in conditions for node in _own(part))
    nested += sum(
        isinstance(node, exp.Select | exp.SetOperation)
        for part in (*select.expressions, *conditions, order)
        for node in _own(part)
    )
    return Components(clauses, nested, _others(select))


def _others(select: exp.Expr) -> int:
    where, group, order, having = (select.args.get(name) for name in ("where", "group", "order", "having"))
    aggregates = sum(any(isinstance(node, _AGGREGATES) for node in _own(item)) for item in select.expressions)
    aggregates += sum(isinstance(node, _AGGREGATES) for node in _own(order))
    aggregates += sum(_is_negated(node) for node in _own(where))
    aggregates += sum(_is_negated(node) or isinstance(node, exp.Connector) for node in _own(having))
    terms = group.expressions if group else []
    conditions = 1 + sum(isinstance(node, exp.Connector) for node in _own(where))
    return sum(count > 1 for count in (aggregates, len(select.expressions), conditions, len(terms)))


def _is_negated(node: exp.Expr) -> bool:
    return isinstance(node, exp.Not) or bool(node.args.get("negate"))


def _first_select(tree: exp.Expr) -> tuple[exp.Expr, int]:
    """The first SELECT, and how many queries stand beside it: 1 for set operations, however many, and one a CTE."""
    beside = 0
    combined = False
    while True:
        beside += len(tree.args["with_"].expressions) if tree.args.get("with_") else 0
        if isinstance(tree, exp.SetOperation):
            combined = True
        elif not isinstance(tree, exp.Subquery | exp.Paren):
            return tree, beside + combined
        tree = tree.this


def _join_conditions(select: exp.Expr) -> list[exp.Expr]:
    return [join.args["on"] for join in select.args.get("joins") or [] if join.args.get("on") is not None]


def _own(part: exp.Expr | None) -> Iterator[exp.Expr]:
    """The nodes of a clause, without what stands within its subqueries."""
    if part is not None:
        yield from part.walk(prune=lambda node: isinstance(node, exp.Select | exp.SetOperation))
