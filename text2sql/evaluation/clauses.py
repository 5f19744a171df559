"""What a normalised query says, clause by clause, in a form that can be compared."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from sqlglot import exp

from text2sql.sql.parse import DIALECT

_QUERIES = (exp.Select, exp.SetOperation)
_COMPARISONS = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE)


def clauses_of(tree: exp.Expr) -> dict[str, Hashable]:
    """What the tree of `normal_tree` says, by clause; equal values where two queries say the same there.

    A clause's value holds that of every SELECT, the outermost first, with subqueries as mere places. Conditions and
    expressions show neither literals nor DISTINCT, which are clauses of their own. The tree is taken apart.
    """
    ctes = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    tables = {table.name.lower() for table in tree.find_all(exp.Table)} - ctes
    queries = list(tree.find_all(*_QUERIES))
    selects = [query for query in queries if isinstance(query, exp.Select)]
    operations = sorted(
        f"{type(query).__name__} {bool(query.args.get('distinct'))}"
        for query in queries
        if isinstance(query, exp.SetOperation)
    )
    for query in queries:
        if query is not tree:
            query.replace(exp.Var(this="query"))
    limits = tuple((_text(query.args.get("limit")), _text(query.args.get("offset"))) for query in queries)
    for query in queries:
        query.set("limit", None)
        query.set("offset", None)
    distinct = tuple(_without_distinct(select) for select in selects)
    literals = sorted(text for query in queries for text in _masked(query))
    return {
        "set_operations": tuple(operations),
        "tables": frozenset(tables),
        "nesting": len(selects),
        "joins": tuple(_joins(select) for select in selects),
        "aggregates": tuple(_aggregates(select) for select in selects),
        "columns": tuple(_bag(select.expressions) for select in selects),
        "filters": tuple(_bag(p for p in _conjuncts(s.args.get("where")) if not _is_link(p)) for s in selects),
        "groups": tuple(_text(select.args.get("group")) for select in selects),
        "havings": tuple(_bag(_conjuncts(select.args.get("having"))) for select in selects),
        "literals": tuple(literals),
        "orders": tuple(_text(query.args.get("order")) for query in queries),
        "limits": limits,
        "distinct": distinct,
    }


def _without_distinct(select: exp.Select) -> tuple[bool, int]:
    """Whether the SELECT is DISTINCT and how many of its aggregates are; none of them is afterwards."""
    own = bool(select.args.get("distinct"))
    select.set("distinct", None)
    inner = list(select.find_all(exp.Distinct))
    for node in inner:
        node.replace(node.expressions[0] if len(node.expressions) == 1 else exp.Tuple(expressions=node.expressions))
    return own, len(inner)


def _masked(query: exp.Expr) -> list[str]:
    """The literals of a query, with their signs; question marks stand in their places afterwards."""
    found = []
    for node in list(query.find_all(exp.Literal)):
        if isinstance(node.parent, exp.Neg):
            found.append(_text(node.parent))
            node.parent.replace(node)
        else:
            found.append(_text(node))
        node.set("this", "?")
        node.set("is_string", False)
    return found


def _joins(select: exp.Select) -> Hashable:
    """Sources with the way that each is joined, and the conditions that link them."""
    from_ = select.args.get("from_")
    sources = [_text(from_.this)] if from_ else []
    for join in select.args.get("joins") or []:
        way = (join.side, join.kind, join.method, _text(join.this), _text(join.args.get("on")))
        sources.append(" ".join([*way, *(name.name for name in join.args.get("using") or [])]))
    return tuple(sorted(sources)), _bag(part for part in _conjuncts(select.args.get("where")) if _is_link(part))


def _aggregates(select: exp.Select) -> Hashable:
    """The aggregate and window functions of the SELECT list."""
    return tuple(sorted(type(node).__name__ for item in select.expressions for node in item.find_all(exp.AggFunc)))


def _conjuncts(clause: exp.Expr | None) -> list[exp.Expr]:
    """The conditions that WHERE or HAVING connects by AND."""
    found: list[exp.Expr] = []
    stack = [clause.this] if clause is not None else []
    while stack:
        node = stack.pop()
        if isinstance(node, exp.And):
            stack += [node.this, node.expression]
        else:
            found.append(node)
    return found


def _is_link(condition: exp.Expr) -> bool:
    """Whether it compares columns of two sources of the same SELECT; ^ marks those of an outer one."""
    if not isinstance(condition, _COMPARISONS):
        return False
    left, right = condition.args["this"], condition.args["expression"]
    if not (isinstance(left, exp.Column) and isinstance(right, exp.Column)):
        return False
    qualifiers = {left.table, right.table}
    return len(qualifiers) == 2 and not any(name.startswith("^") or not name for name in qualifiers)


def _bag(nodes: Iterable[exp.Expr]) -> tuple[str, ...]:
    return tuple(sorted(map(_text, nodes)))


def _text(node: exp.Expr | None) -> str:
    return node.sql(dialect=DIALECT, comments=False) if node is not None else ""
