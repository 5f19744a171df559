"""What a query says about the values in the columns it uses: literals, joins, orders, sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from sqlglot import exp

from text2sql.sql.schema import NUMBER_TYPE, Schema
from text2sql.sql.scopes import Scopes

Key = tuple[str, str]
"""Lower-case table and column."""
Value = int | float | str

_COMPARISONS: dict[type[exp.Expr], str] = {
    exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=", exp.Is: "=",
    exp.Like: "like", exp.ILike: "like", exp.Glob: "glob",
}  # fmt: skip
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_ARITHMETIC = (exp.Sum, exp.Avg, exp.Sub, exp.Add, exp.Mul, exp.Div, exp.Neg, exp.Abs, exp.Round)
_WRAPPERS = (exp.Lower, exp.Upper, exp.Trim, exp.Cast, exp.Round, exp.Abs, exp.Coalesce, exp.Collate, exp.Substring)
"""Functions of one column whose result, compared with a literal, says what values the column should have."""
_TEMPORAL = (exp.TimeToStr, exp.Date, exp.TsOrDsToDate, exp.TsOrDsToTimestamp, exp.DateTrunc)
_TEMPORAL_NAMES = frozenset({"date", "time", "datetime", "julianday", "strftime", "unixepoch", "timediff"})


@dataclass
class Hints:
    """Filled by `read_hints`; every key is a column of the schema."""

    conditions: dict[Key, list[tuple[str, Value]]] = field(default_factory=dict)
    """Operator (=, <>, <, <=, >, >=, like, glob) and literal, as the query compares them."""
    links: list[tuple[Key, Key]] = field(default_factory=list)
    """Columns that are compared with each other, and so must share values."""
    stacked: set[tuple[Key, Key]] = field(default_factory=set)
    """Links that a UNION makes: it lists the values of both, and compares none."""
    joined: set[Key] = field(default_factory=set)
    """Columns linked by equality."""
    numeric: set[Key] = field(default_factory=set)
    temporal: set[Key] = field(default_factory=set)
    ordered: set[Key] = field(default_factory=set)
    """ORDER BY, MIN or MAX of the column itself: ties would make the answer a matter of luck."""
    leading: set[Key] = field(default_factory=set)
    """ORDER BY columns before the last one: without ties in them the last would never count."""
    grouped: set[Key] = field(default_factory=set)
    """GROUP BY columns."""
    determining: set[Key] = field(default_factory=set)
    """GROUP BY columns that must determine other columns of their table for the result to be defined."""
    averaged: set[Key] = field(default_factory=set)
    """Columns compared with their own average: a value that equals it tells > from >=."""
    sizes: list[int] = field(default_factory=list)
    """Numbers that counts are compared with."""
    limit: int = 0
    tables: set[str] = field(default_factory=set)
    """Lower-case names of the tables that the query names."""


def read_hints(tree: exp.Expr, schema: Schema) -> Hints:
    """The hints of one query over a schema; columns that cannot be placed are passed over."""
    reader = _Reader(tree, schema)
    for node in tree.walk():
        reader.visit(node)
    return reader.hints


def literal(node: exp.Expr | None, names: frozenset[str] | None = None) -> Value | None:
    """The value of a literal; with the names of all columns given, that of "text" which names none of them too."""
    if isinstance(node, exp.Paren | exp.Collate):
        return literal(node.this, names)
    if isinstance(node, exp.Neg):
        value = literal(node.this)
        return -value if isinstance(value, int | float) else None
    if isinstance(node, exp.Literal):
        return str(node.this) if node.is_string else _number(str(node.this))
    if names is not None and is_quoted_text(node, names):
        return str(node.name)  # type: ignore[union-attr]
    return None


def is_quoted_text(node: exp.Expr | None, names: frozenset[str]) -> bool:
    """Whether a node is "text" in double quotes that SQLite, finding no such column, reads as a string."""
    return (
        isinstance(node, exp.Column)
        and not node.table
        and isinstance(node.this, exp.Identifier)
        and bool(node.this.args.get("quoted"))
        and node.name.lower() not in names
    )


def column_names(tree: exp.Expr, schema: Schema) -> frozenset[str]:
    """Lower-case names that a column reference can mean: columns of the schema and aliases of the query."""
    names = {column.name.lower() for table in schema.tables for column in table.columns}
    names |= {node.alias.lower() for node in tree.find_all(exp.Alias, exp.CTE)}
    names |= {name.name.lower() for alias in tree.find_all(exp.TableAlias) for name in alias.args.get("columns") or []}
    return frozenset(names)


def _number(text: str) -> Value | None:
    """As SQLite reads it: what 64 bits cannot hold is no integer."""
    try:
        if abs(whole := int(text)) < 2**63:
            return whole
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < 1e300 else None


class _Reader:
    def __init__(self, tree: exp.Expr, schema: Schema) -> None:
        self.hints = Hints()
        self._names = column_names(tree, schema)
        self._scopes = Scopes(tree, schema)

    def visit(self, node: exp.Expr) -> None:
        """Take from one node what it says; its children are visited on their own."""
        if type(node) in _COMPARISONS:
            self._comparison(_COMPARISONS[type(node)], node.args.get("this"), node.args.get("expression"))
        elif isinstance(node, exp.Between):
            self._comparison(">=", node.this, node.args.get("low"))
            self._comparison("<=", node.this, node.args.get("high"))
        elif isinstance(node, exp.In):
            for choice in node.expressions:
                self._comparison("=", node.this, choice)
            self._comparison("=", node.this, node.args.get("query"))
        elif isinstance(node, exp.SetOperation):
            before = len(self.hints.links)
            for left, right in zip(_selected(node.left), _selected(node.right), strict=False):
                self._comparison("=", left, right)
            if isinstance(node, exp.Union):
                self.hints.stacked.update(self.hints.links[before:])
        elif isinstance(node, exp.Limit | exp.Offset):
            value = literal(node.expression)
            self.hints.limit += min(value, 100) if isinstance(value, int) else 0
        elif isinstance(node, exp.Table):
            self.hints.tables.add(node.name.lower())
        else:
            self._visit_columns(node)

    def _visit_columns(self, node: exp.Expr) -> None:
        if isinstance(node, _ARITHMETIC):
            self.hints.numeric.update(self._keys(node.iter_expressions()))
        elif isinstance(node, _TEMPORAL) or (isinstance(node, exp.Anonymous) and node.name.lower() in _TEMPORAL_NAMES):
            self.hints.temporal.update(self._keys(node.iter_expressions()))
        elif isinstance(node, exp.Cast):
            if NUMBER_TYPE.search(node.to.sql()) and not node.find(exp.Substring, *_TEMPORAL):
                self.hints.numeric.update(self._keys([_unwrapped(node.this)[0]]))
        elif isinstance(node, exp.Ordered | exp.Max | exp.Min):
            last = not isinstance(node.parent, exp.Order) or node is node.parent.expressions[-1]
            (self.hints.ordered if last else self.hints.leading).update(self._keys([node.this]))
        elif isinstance(node, exp.Group):
            self._group(node)
        elif isinstance(node, exp.Join):
            for name in node.args.get("using") or []:
                self._using(node, name.name.lower())

    def _comparison(self, operator: str, left: exp.Expr | None, right: exp.Expr | None) -> None:
        for first, second, meaning in ((left, right, operator), (right, left, _FLIPPED.get(operator, operator))):
            value = literal(second, self._names)
            if value is None:
                continue
            inner = first.unnest() if first is not None else None
            if isinstance(inner, exp.Count) and isinstance(value, int | float):
                self.hints.sizes.append(min(max(int(value), 0), 40))
            elif isinstance(inner, exp.Sum | exp.Avg | exp.Min | exp.Max):
                inner = inner.this
            inner, part = _unwrapped(inner)
            key = self._key(inner)
            if key and part is not None:
                self.hints.conditions.setdefault(key, []).extend(_with_part(part, value))
            elif key:
                self.hints.conditions.setdefault(key, []).append((meaning, value))
                if not isinstance(value, str):
                    self.hints.numeric.add(key)
            return
        self._average(left, right)
        one, other = self._value_column(left), self._value_column(right)
        if one and other and one != other:
            self.hints.links.append((one, other))
            if operator == "=":
                self.hints.joined |= {one, other}

    def _average(self, *sides: exp.Expr | None) -> None:
        for side in sides:
            query = side.unnest() if side is not None else None
            selected = _selected(query) if isinstance(query, exp.Query) else []
            if len(selected) == 1 and isinstance(selected[0], exp.Avg):
                self.hints.averaged.update(self._keys([selected[0].this]))

    def _value_column(self, node: exp.Expr | None) -> Key | None:
        """The column whose values a node takes: itself, or what a subquery selects, MIN and MAX looked through."""
        node = node.unnest() if node is not None else None
        if isinstance(node, exp.Query):
            selected = _selected(node)
            node = selected[0] if len(selected) == 1 else None
        if isinstance(node, exp.Min | exp.Max | exp.Distinct):
            node = node.this
        return self._key(node)

    def _group(self, group: exp.Group) -> None:
        select = group.parent
        if not isinstance(select, exp.Select):
            return
        keys = set(self._keys(group.expressions))
        self.hints.grouped |= keys
        bare = [p for p in [*select.expressions, *_order(select)] if isinstance(p.unalias(), exp.Column)]
        others = set(self._keys(p.unalias() for p in bare)) - keys
        tables = {table for table, _ in others}
        self.hints.determining |= {key for key in keys if key[0] in tables}

    def _using(self, join: exp.Join, name: str) -> None:
        scope = self._scopes.of(join)
        owners = [t.name.lower() for t in scope.sources.values() if t and t.column(name)] if scope else []
        for first, second in pairwise(owners):
            self.hints.links.append(((first, name), (second, name)))
            self.hints.joined |= {(first, name), (second, name)}

    def _keys(self, nodes: object) -> Iterator[Key]:
        for node in nodes:  # type: ignore[attr-defined]
            key = self._key(node.this if isinstance(node, exp.Distinct | exp.Paren) else node)
            if key:
                yield key

    def _key(self, node: exp.Expr | None) -> Key | None:
        if not isinstance(node, exp.Column):
            return None
        found = self._scopes.resolve(node)
        table = found.table if found else None
        if table is None or not table.column(node.name):
            return None
        return table.name.lower(), node.name.lower()


def _unwrapped(node: exp.Expr | None) -> tuple[exp.Expr | None, exp.Substring | None]:
    """What stands within functions of a column, and the SUBSTR among them."""
    part: exp.Substring | None = None
    node = node.unnest() if node is not None else None
    while True:
        if isinstance(node, _WRAPPERS):
            part = node if isinstance(node, exp.Substring) else part
            node = node.this.unnest()
        elif isinstance(node, exp.TimeToStr | exp.TsOrDsToTimestamp | exp.TsOrDsToDate | exp.Date):
            node = node.this
        else:
            return node, part


def _with_part(part: exp.Substring, value: Value) -> list[tuple[str, Value]]:
    """Patterns of texts that have a value, and its neighbours where it is a number, where SUBSTR looks."""
    start = literal(part.args.get("start"))
    if not isinstance(start, int):
        return []
    before, after = ("_" * min(start - 1, 40), "%") if start > 0 else ("%", "")
    text = str(value)
    values = [int(text) + step for step in (0, 1, -1)] if text.isdecimal() and len(text) < 10 else []
    return [("like", f"{before}{near:0{len(text)}d}{after}") for near in values] or [("like", f"{before}{text}{after}")]


def _order(select: exp.Select) -> list[exp.Expr]:
    order = select.args.get("order")
    return [ordered.this for ordered in order.expressions] if order else []


def _selected(node: exp.Expr | None) -> list[exp.Expr]:
    while isinstance(node, exp.Subquery | exp.SetOperation):
        node = node.this
    return [p.unalias() for p in node.expressions] if isinstance(node, exp.Select) else []
