"""What is wrong with a wrong answer: one name for it, the most telling one.

An answer that does not run is named by what stopped it. One that runs is compared with the gold clause by clause, on
the normalised trees (text2sql.sql.normalise) and SELECT by SELECT, and named by the first clause that differs, in the
order of FAULTS; with several golds by the nearest, that with the fewest clauses that differ.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Hashable, Sequence

from sqlglot import exp

from text2sql.errors import SqlError
from text2sql.evaluation.clauses import clauses_of
from text2sql.evaluation.types import RowScore
from text2sql.sql.names import invented_names
from text2sql.sql.normalise import normal_tree
from text2sql.sql.parse import assert_read_only, parse
from text2sql.sql.schema import parse_schema

FAULTS = {
    "no_answer": "nothing, or nothing but comments",
    "syntax": "not SQL, or SQL with a mistake of syntax",
    "not_read_only": "writes, or holds more than one statement",
    "forbidden": "asks for what no answer needs: a system table, another database, a function off the list",
    "timeout": "ran out of its time",
    "too_large": "ran out of memory or of another limit",
    "invented_table": "names a table that the schema does not have",
    "invented_column": "names a column that its tables do not have",
    "ambiguous_column": "names a column that several of its tables have, without saying which",
    "wrong_set_operation": "UNION, INTERSECT or EXCEPT instead of another or of none, or none instead",
    "wrong_tables": "reads other tables than the gold",
    "wrong_nesting": "the right tables, in more or fewer subqueries",
    "wrong_join": "the right tables, joined on other columns, in another way or another number of times",
    "wrong_aggregate": "selects with other aggregate functions, or with one too many or too few",
    "wrong_columns": "selects other columns or expressions",
    "wrong_filter": "other conditions in WHERE: another column, operator, AND or OR, or one too many or too few",
    "wrong_group": "groups by something else",
    "wrong_having": "other conditions on groups",
    "wrong_literal": "the right conditions, with another value",
    "wrong_order": "sorts by something else, or the other way",
    "wrong_limit": "another LIMIT or OFFSET",
    "wrong_distinct": "DISTINCT too many or too few",
    "other": "none of these: what it differs in has no name here, or it is too long to be compared",
}
"""Slug → meaning. The order is that in which they are looked for."""

_REASONS = tuple(
    (re.compile(pattern, re.IGNORECASE), fault)
    for pattern, fault in (
        (r"holds no (statement|query)$", "no_answer"),
        (r"^only SELECT is allowed, not (?!EXPLAIN|PRAGMA)", "syntax"),  # a value or an expression
        (r"^only SELECT|^one statement is allowed|one statement at a time", "not_read_only"),
        (r"^function \S+ is not allowed|^no such function|^system table|named with a database", "forbidden"),
        (r"^only tables can be read|^database .* cannot be read|^unknown database", "forbidden"),
        (r"^ran longer than|took more than .* s$", "timeout"),
        (r"expands to more than|^CTEs name each other|out of memory|MemoryError|stack overflow", "too_large"),
        (r"too (big|many|large|long|complex)|worker process died|characters; at most|nests (too|deeper)", "too_large"),
        (r"^no such table", "invented_table"),
        (r"^no such column|^cannot join using column", "invented_column"),
        (r"^ambiguous column", "ambiguous_column"),
        (r"same number of result columns|ORDER BY term does not match", "wrong_set_operation"),
        (r"^sub-select returns", "wrong_nesting"),
        (r"^misuse of (aggregate|window)", "wrong_aggregate"),
        (r"^not SQL|syntax error|unrecognized token|incomplete input|^the text ", "syntax"),
    )
)
"""What the parser, the guard, the judge and SQLite say, and the fault that it tells of; the first that matches."""

_COMPARED_CHARS = 5_000
"""Longer answers are not compared with a gold: some clauses take the square of their length in time."""
_CLAUSES = {
    "set_operations": "wrong_set_operation",
    "tables": "wrong_tables",
    "nesting": "wrong_nesting",
    "joins": "wrong_join",
    "aggregates": "wrong_aggregate",
    "columns": "wrong_columns",
    "filters": "wrong_filter",
    "groups": "wrong_group",
    "havings": "wrong_having",
    "literals": "wrong_literal",
    "orders": "wrong_order",
    "limits": "wrong_limit",
    "distinct": "wrong_distinct",
}
"""Clauses of text2sql.evaluation.clauses, and the fault of an answer that differs there first."""


def find_fault(prediction: str, golds: Sequence[str], context: str, score: RowScore) -> str | None:
    """The fault of one answer, of FAULTS; None for a right one. Never raises for what any of the texts say.

    Args:
        golds: those that are accepted, at least one.
        score: the verdict; of it `executed`, `valid` and `error` are read.
    """
    if score.executed:
        return None
    if not prediction.strip():
        return "no_answer"
    if not score.valid and score.error and (fault := _of_reason(score.error)):
        return fault
    try:
        tree = parse(prediction)
        assert_read_only(tree)
    except SqlError as error:
        return _of_reason(str(error)) or "syntax"
    except RecursionError:
        return "too_large"
    try:
        return _of_names(tree, context, score) or _of_clauses(prediction, golds, context)
    except (SqlError, RecursionError):
        return "other"


def _of_reason(reason: str) -> str | None:
    return next((fault for pattern, fault in _REASONS if pattern.search(reason)), None)


def _of_names(tree: exp.Expr, context: str, score: RowScore) -> str | None:
    """What SQLite would have complained of next, where it complained of something else or was not asked."""
    invented = [] if score.valid else invented_names(tree, parse_schema(context))
    return f"invented_{invented[0].kind}" if invented else None


def _of_clauses(prediction: str, golds: Sequence[str], context: str) -> str:
    if len(prediction) > _COMPARED_CHARS:
        return "other"
    said = clauses_of(normal_tree(prediction, context))
    nearest: list[str] = []
    for gold in golds:
        try:
            meant = _gold_clauses(gold, context)
        except (SqlError, RecursionError):
            continue
        differing = [fault for clause, fault in _CLAUSES.items() if said[clause] != meant[clause]]
        if differing and (not nearest or len(differing) < len(nearest)):
            nearest = differing
    return nearest[0] if nearest else "other"


@functools.lru_cache(maxsize=64)
def _gold_clauses(gold: str, context: str) -> dict[str, Hashable]:
    """Kept, since several answers are compared with the same gold."""
    return clauses_of(normal_tree(gold, context))
