"""What a query does, in plain words, read off its tree. What has no words here is shown as SQL."""

from __future__ import annotations

from collections.abc import Iterator

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from text2sql.errors import ParseError
from text2sql.sql.parse import DIALECT, parse

_COMPARED: dict[type[exp.Expr], str] = {
    exp.EQ: "is",
    exp.NEQ: "is not",
    exp.GT: "is more than",
    exp.GTE: "is at least",
    exp.LT: "is less than",
    exp.LTE: "is at most",
    exp.Like: "looks like",
    exp.ILike: "looks like",
    exp.Is: "is",
}
_AGGREGATES: dict[type[exp.Expr], str] = {
    exp.Sum: "the sum of",
    exp.Avg: "the average of",
    exp.Min: "the smallest",
    exp.Max: "the largest",
}
_KNOWN = frozenset({"this", "expression", "expressions", "query", "low", "high", "negate", "alias", "table", "big_int"})
"""Parts of an expression that its words tell of."""
_CLAUSES = frozenset(
    {"expressions", "from_", "joins", "where", "group", "having", "distinct", "order", "limit", "offset", "with_"}
)
_SETS: tuple[tuple[type[exp.SetOperation], str], ...] = (
    (exp.Union, "Puts the results of two queries together"),
    (exp.Intersect, "Keeps what two queries both give"),
    (exp.Except, "Takes from the first query what the second gives too"),
)


def explain(sql: str, dialect: str = DIALECT) -> list[str]:
    """A line for each thing that a query does, in the order in which it can be thought of; parts of parts are indented.

    Raises:
        ParseError: it cannot be read.
        UnsafeSqlError: it is no query.
    """
    try:
        tree = parse(sql) if dialect == DIALECT else sqlglot.parse_one(sql, dialect=dialect)
        return list(_query(tree, dialect))
    except (SqlglotError, RecursionError):
        raise ParseError("the query cannot be read well enough to explain it") from None


def _query(tree: exp.Expr, dialect: str) -> Iterator[str]:
    for cte in tree.ctes if isinstance(tree, exp.Query) else ():
        yield from _part(cte.alias, cte.this, dialect)
    if isinstance(tree, exp.Subquery) and isinstance(tree.this, exp.Query):
        yield from _query(tree.this, dialect)
    elif isinstance(tree, exp.SetOperation):
        yield from _set(tree, dialect)
    elif isinstance(tree, exp.Select):
        yield from _Select(tree, dialect).lines()
    else:
        yield f"Gives {tree.sql(dialect=dialect)}"


def _part(name: str, query: exp.Expr, dialect: str) -> Iterator[str]:
    yield f"Works out {name} first:"
    yield from (f"  {line}" for line in _query(query, dialect))


def _set(tree: exp.SetOperation, dialect: str) -> Iterator[str]:
    words = next(words for kind, words in _SETS if isinstance(tree, kind))
    yield f"{words}, {'each row once' if tree.args.get('distinct') else 'repeats included'}:"
    for number, side in (("The first:", tree.this), ("The second:", tree.expression)):
        yield f"  {number}"
        yield from (f"    {line}" for line in _query(side, dialect))
    yield from _Words(tree, dialect).ending(tree)


class _Words:
    """Expressions in words."""

    def __init__(self, tree: exp.Expr, dialect: str) -> None:
        self._dialect = dialect
        # Its own, not those of the queries in it, which may give the same alias to others.
        own = tree.walk(prune=lambda node: isinstance(node, exp.Select | exp.SetOperation) and node is not tree)
        sources = [node for node in own if isinstance(node, exp.Table | exp.Subquery) and node.alias_or_name]
        self._named = {source.alias_or_name.lower(): source.name or source.alias for source in sources}
        self._several = len(sources) > 1

    def of(self, node: exp.Expr) -> str:
        """In words where there are some for all of it."""
        if {name for name, value in node.args.items() if value} <= _KNOWN:
            for words in (self._logic(node), self._comparison(node), self._value(node)):
                if words:
                    return words
        return node.sql(dialect=self._dialect)

    def ending(self, tree: exp.Expr) -> Iterator[str]:
        """How it is sorted and cut."""
        if order := tree.args.get("order"):
            keys = [f"{self.of(k.this)}{', largest first' if k.args.get('desc') else ''}" for k in order.expressions]
            yield f"Sorts by {'; then by '.join(keys)}"
        limit, offset = tree.args.get("limit"), tree.args.get("offset")
        if limit is not None:
            count = (limit.expression if isinstance(limit, exp.Limit) else limit.args.get("count")) or limit
            what = "row" if count.sql() == "1" else f"{count.sql(dialect=self._dialect)} rows"
            skipped = f" after the first {self.of(offset.expression)}" if offset is not None else ""
            yield f"Keeps the {'next' if skipped else 'first'} {what}{skipped}"

    def _logic(self, node: exp.Expr) -> str:
        if isinstance(node, exp.Paren):
            inner = self.of(node.this)
            return f"({inner})" if isinstance(node.this, exp.Connector) else inner
        if isinstance(node, exp.And | exp.Or):
            return f"{self.of(node.this)} {'and' if isinstance(node, exp.And) else 'or'} {self.of(node.expression)}"
        if isinstance(node, exp.Not):
            return self._negated(node.this)
        if isinstance(node, exp.Exists):
            return f"there is a row in ({node.this.sql(dialect=self._dialect)})"
        return ""

    def _negated(self, node: exp.Expr) -> str:
        if isinstance(node, exp.Is):
            return f"{self.of(node.this)} is not {self._operand(node.expression)}"
        if isinstance(node, exp.In | exp.Between):
            return self._comparison(node, " not")
        if isinstance(node, exp.Exists):
            return f"there is no row in ({node.this.sql(dialect=self._dialect)})"
        return f"it is not so that {self.of(node)}"

    def _comparison(self, node: exp.Expr, negated: str = "") -> str:
        if isinstance(node, exp.Between):
            low, high = self.of(node.args["low"]), self.of(node.args["high"])
            return f"{self.of(node.this)} is{negated} from {low} to {high}"
        if isinstance(node, exp.In):
            if query := node.args.get("query"):
                return f"{self.of(node.this)} is{negated} among the results of {query.sql(dialect=self._dialect)}"
            return f"{self.of(node.this)} is{negated} one of {', '.join(self.of(e) for e in node.expressions)}"
        words = _COMPARED.get(type(node))
        if node.args.get("negate"):
            words = "does not look like" if words == "looks like" else None
        return f"{self.of(node.this)} {words} {self._operand(node.expression)}" if words else ""

    def _operand(self, node: exp.Expr) -> str:
        if isinstance(node, exp.Null):
            return "empty (NULL)"
        if isinstance(node, exp.Subquery):
            return f"the result of {node.sql(dialect=self._dialect)}"
        return self.of(node)

    def _value(self, node: exp.Expr) -> str:
        if isinstance(node, exp.Alias):
            return f"{self.of(node.this)} (called {node.alias})"
        if isinstance(node, exp.Star):
            return "every column"
        if isinstance(node, exp.Column):
            table = self._named.get(node.table.lower(), node.table)
            if isinstance(node.this, exp.Star):
                return f"every column of {table}"
            return f"{table}'s {node.name}" if table and self._several else node.name
        if isinstance(node, exp.Count):
            return self._count(node)
        if (words := _AGGREGATES.get(type(node))) and not node.expressions:
            if isinstance(node.this, exp.Distinct):
                return f"{words} the different {self._list(node.this.expressions)}"
            return f"{words} {self.of(node.this)}"
        return ""

    def _count(self, node: exp.Count) -> str:
        if isinstance(node.this, exp.Distinct):
            return f"the number of different {self._list(node.this.expressions)}"
        if isinstance(node.this, exp.Star) or node.this is None:
            return "the number of rows"
        return f"the number of rows where {self.of(node.this)} is not empty"

    def _list(self, nodes: list[exp.Expr]) -> str:
        return ", ".join(self.of(node) for node in nodes)


class _Select:
    """One SELECT, clause by clause."""

    def __init__(self, tree: exp.Select, dialect: str) -> None:
        self._tree, self._dialect = tree, dialect
        self._words = _Words(tree, dialect)

    def lines(self) -> Iterator[str]:
        yield from self._sources()
        tree, words = self._tree, self._words
        if where := tree.args.get("where"):
            yield f"Keeps rows where {words.of(where.this)}"
        grouped = tree.args.get("group")
        if grouped:
            keys = ", ".join(words.of(key) for key in grouped.expressions) or grouped.sql(dialect=self._dialect)
            yield f"Puts rows together that share {keys}"
        if having := tree.args.get("having"):
            yield f"Keeps groups where {words.of(having.this)}"
        yield f"{self._each(bool(grouped))} {'; '.join(words.of(part) for part in tree.expressions)}"
        for name, found in tree.args.items():
            for part in found if isinstance(found, list) else [found]:
                if isinstance(part, exp.Expr) and name not in _CLAUSES:
                    yield f"Further: {part.sql(dialect=self._dialect)}"
        if tree.args.get("distinct"):
            yield "Leaves out repeated rows"
        yield from words.ending(tree)

    def _each(self, grouped: bool) -> str:
        if grouped:
            return "Gives for each group:"
        plain = [part.unalias() for part in self._tree.expressions]
        aggregated = plain and all(part.find(exp.AggFunc) and not part.find(exp.Window, exp.Query) for part in plain)
        if self._tree.args.get("from_") is None:
            return "Gives"
        return "Gives in one row:" if aggregated else "Gives for each row:"

    def _sources(self) -> Iterator[str]:
        source = self._tree.args.get("from_")
        if source is None:
            return
        joins = self._tree.args.get("joins") or []
        for part in (source.this, *(join.this for join in joins)):
            if isinstance(part, exp.Subquery):
                yield from _part(part.alias or "a query", part.this, self._dialect)
        yield f"Reads {self._name(source.this)}"
        for join in joins:
            yield self._join(join)

    def _join(self, join: exp.Join) -> str:
        other, side = self._name(join.this), (join.side or "").upper()
        condition = ""
        if join.args.get("on"):
            condition = f" where {self._words.of(join.args['on'])}"
        elif join.args.get("using"):
            condition = f" where both have the same {', '.join(column.name for column in join.args['using'])}"
        elif (join.method or "").upper() == "NATURAL":
            condition = " where the columns of the same names are equal"
        if not condition:
            return f"Pairs each row with every row of {other}"
        unmatched = {"LEFT": "; rows without a match stay", "RIGHT": f"; rows of {other} without a match stay"}
        rest = unmatched.get(side, "; rows of both without a match stay" if side == "FULL" else "")
        return f"Pairs each row with those of {other}{condition}{rest}"

    def _name(self, source: exp.Expr) -> str:
        if isinstance(source, exp.Table):
            return source.name
        return source.alias or source.sql(dialect=self._dialect)
