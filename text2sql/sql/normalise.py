"""Canonical text of a query: equal for spellings of the same query, never for queries of different meaning."""

from __future__ import annotations

import re

from sqlglot import exp
from sqlglot.dialects.sqlite import SQLite

from text2sql.errors import ParseError
from text2sql.sql.hints import column_names, is_quoted_text, literal
from text2sql.sql.parse import DIALECT, parse
from text2sql.sql.schema import Schema, parse_schema
from text2sql.sql.scopes import Scope, Scopes

_OPERATIONS = (exp.Binary, exp.Unary, exp.Between, exp.In, exp.Is)
_SORTED_SIDES = (exp.EQ, exp.NEQ, exp.Add, exp.Mul)
_MIRRORED: dict[type[exp.Expr], type[exp.Binary]] = {exp.GT: exp.LT, exp.GTE: exp.LTE}
_NEGATED: dict[type[exp.Expr], type[exp.Binary]] = {
    exp.EQ: exp.NEQ, exp.NEQ: exp.EQ, exp.LT: exp.GTE, exp.GTE: exp.LT, exp.LTE: exp.GT, exp.GT: exp.LTE,
}  # fmt: skip
_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)
_KEYWORDS = frozenset(word.lower() for words in SQLite.Tokenizer.KEYWORDS for word in words.split())
# https://www.sqlite.org/datatype3.html, 3.1: the first that a type's name contains; what contains none is NUMERIC.
# sqlglot calls BLOB VARBINARY.
_AFFINITIES = (("INT", "INTEGER"), ("CHAR", "TEXT"), ("CLOB", "TEXT"), ("TEXT", "TEXT"), ("VARBINARY", "BLOB"),
               ("REAL", "REAL"), ("FLOA", "REAL"), ("DOUB", "REAL"))  # fmt: skip


def normalise(sql: str, schema_text: str | None = None) -> str:
    """Canonical text of a query.

    Case, quoting, aliases, ordinals, redundant parentheses and qualifiers, `!=`, NOT before a comparison, IN of one
    literal, `ASC`, INNER, the order of AND and OR operands, of the sides of =, of IN lists, of GROUP BY and of inner
    joins do not show in it. The case of strings does. With the
    schema, columns are also given the table they belong to, and double-quoted text that names no column is a string.

    Raises:
        ParseError: the query, or the schema, is no SQL.
        UnsafeSqlError: it is not one SELECT.
    """
    return canonical(parse(sql), parse_schema(schema_text) if schema_text is not None else None)


def canonical(tree: exp.Expr, schema: Schema | None, values: bool = True) -> str:
    """As `normalise`, of a tree, which is used up; without `values` every literal is written as '?'.

    Raises:
        ParseError: the query nests too deeply.
    """
    try:
        return _text(_canonical(tree, schema, values))
    except RecursionError:
        raise ParseError("the query nests too deeply to be compared; flatten it") from None


def normal_tree(sql: str, schema_text: str | None = None) -> exp.Expr:
    """The tree whose text is that of `normalise`; raises what that raises."""
    schema = parse_schema(schema_text) if schema_text is not None else None
    try:
        return _canonical(parse(sql), schema, values=True)
    except RecursionError:
        raise ParseError("the query nests too deeply to be compared; flatten it") from None


def _canonical(tree: exp.Expr, schema: Schema | None, values: bool) -> exp.Expr:
    if schema:
        tree = _strings_for_quoted_text(tree, schema)
    scopes = Scopes(tree, schema)
    for scope in scopes.all:
        _inline_aliases(scope, scopes)
    tree = _rename(tree, Scopes(tree, schema))
    scopes = Scopes(tree, schema)
    for select in list(tree.find_all(exp.Select)):
        _drop_aliases(select, scopes)
        _merge_inner_joins(select)
    if not values:
        _mask_literals(tree)
    return _bottom_up(tree)


def _strings_for_quoted_text(tree: exp.Expr, schema: Schema) -> exp.Expr:
    names = column_names(tree, schema)
    for column in list(tree.find_all(exp.Column)):
        if is_quoted_text(column, names):
            column.replace(exp.Literal.string(column.name))
    return tree


def _mask_literals(tree: exp.Expr) -> None:
    """Once ordinals stand for what they mean; a sign belongs to its number, and COUNT(1) counts rows."""
    for literal_ in list(tree.find_all(exp.Literal)):
        signed: exp.Expr = literal_
        while isinstance(signed.parent, exp.Neg):
            signed = signed.parent
        if isinstance(signed.parent, exp.Count):
            continue
        literal_.set("this", "?")  # in place: replacing one in a list of thousands searches the list
        literal_.set("is_string", True)
        if signed is not literal_:
            signed.replace(literal_)


def _rename(tree: exp.Expr, scopes: Scopes) -> exp.Expr:
    """Table aliases become table names, numbered in self joins; qualifiers stay only where two sources could be meant.

    A column of an outer query is marked with one ^ a level, so that it is never taken for one of the inner query.
    """
    labels = {id(scope): _labels(scope) for scope in scopes.all}
    qualifiers: list[tuple[exp.Column, str | None]] = []
    for column in tree.find_all(exp.Column):
        found = scopes.resolve(column)
        if found is None:
            qualifiers.append((column, column.table.lower() or None))
        elif found.level == 0 and len(found.scope.sources) == 1:
            qualifiers.append((column, None))
        else:
            qualifiers.append((column, "^" * found.level + labels[id(found.scope)][found.alias]))
    for column, qualifier in qualifiers:
        column.set("table", exp.to_identifier(qualifier, quoted=False) if qualifier else None)
    for scope in scopes.all:
        for alias, node in scope.nodes.items():
            label = labels[id(scope)][alias]
            if isinstance(node, exp.Table):
                same = label == node.name.lower()
                node.set("alias", None if same else exp.TableAlias(this=exp.to_identifier(label)))
    for identifier in tree.find_all(exp.Identifier):
        name = identifier.name.lower()
        identifier.set("this", name)
        identifier.set("quoted", not _PLAIN_NAME.fullmatch(name) or name in _KEYWORDS)
    return tree


def _labels(scope: Scope) -> dict[str, str]:
    """Alias → the table's name, with a number where the table stands in FROM more than once."""
    names = {alias: node.name.lower() if isinstance(node, exp.Table) else alias for alias, node in scope.nodes.items()}
    labels: dict[str, str] = {}
    for alias, name in names.items():
        earlier = sum(names[other] == name for other in labels)
        labels[alias] = f"{name}@{earlier + 1}" if earlier else name
    return labels


def _inline_aliases(scope: Scope, scopes: Scopes) -> None:
    """Put what a column alias or an ordinal stands for where it is used.

    SQLite looks for an alias first in ORDER BY, and for a real column first in GROUP BY and HAVING.
    """
    select = scope.select
    aliases = {p.alias.lower(): p.this for p in select.expressions if isinstance(p, exp.Alias)}
    order = select.args.get("order")
    for ordered in order.expressions if order else []:
        inner = ordered.this
        if (meant := _ordinal(inner, select)) is not None:
            ordered.set("this", meant)
        elif isinstance(inner, exp.Column) and not inner.table and inner.name.lower() in aliases:
            ordered.set("this", aliases[inner.name.lower()].copy())
    if group := select.args.get("group"):
        group.set("expressions", [_ordinal(term, select) or term for term in group.expressions])
    for part in (select.args.get("group"), select.args.get("having")):
        for column in list(part.find_all(exp.Column)) if part else []:
            expression = aliases.get(column.name.lower())
            if expression is not None and not column.table and _is_only_alias(column, scopes):
                column.replace(expression.copy())


def _ordinal(term: exp.Expr, select: exp.Select) -> exp.Expr | None:
    """A copy of what a number in ORDER BY or GROUP BY stands for; None for anything else."""
    if not isinstance(term, exp.Literal) or term.is_string or not str(term.this).isdigit() or select.is_star:
        return None
    position = int(term.this) - 1
    return select.expressions[position].unalias().copy() if 0 <= position < len(select.expressions) else None


def _is_only_alias(column: exp.Column, scopes: Scopes) -> bool:
    """Whether no table in scope has a column of that name; False when that cannot be known."""
    scope = scopes.of(column)
    tables = list(scope.sources.values()) if scope else [None]
    return all(table is not None and not table.column(column.name) for table in tables)


def _drop_aliases(select: exp.Select, scopes: Scopes) -> None:
    """Drop column aliases that nothing can see or uses any more: those of derived tables and CTEs stay.

    Expressions of the SELECT list see no alias, and elsewhere a column of that name comes first.
    """
    holder = select.parent
    while isinstance(holder, exp.SetOperation | exp.Subquery) and not isinstance(holder.parent, exp.From | exp.Join):
        if isinstance(holder, exp.SetOperation) and holder.args.get("order"):
            return  # its ORDER BY may name an alias
        holder = holder.parent
    if isinstance(holder, exp.CTE | exp.From | exp.Join | exp.Subquery):
        return
    aliases = {p.alias for p in select.expressions if isinstance(p, exp.Alias)}
    if not aliases:
        return
    listed = {id(column) for p in select.expressions for column in p.find_all(exp.Column)}
    unlisted = [c for c in select.find_all(exp.Column) if not c.table and c.name in aliases and id(c) not in listed]
    if all(_is_known(column, scopes) for column in unlisted):
        select.set("expressions", [p.unalias() for p in select.expressions])


def _is_known(column: exp.Column, scopes: Scopes) -> bool:
    """Whether the schema has it, in a table that the query reads there."""
    found = scopes.resolve(column)
    return bool(found and found.table and found.table.column(column.name))


def _merge_inner_joins(select: exp.Select) -> None:
    """FROM a JOIN b ON x WHERE y → sorted tables, with x AND y as the condition: the same rows for inner joins."""
    joins = select.args.get("joins") or []
    for join in joins:
        plain = not (join.side or join.method or join.args.get("using")) and join.kind in ("", "INNER", "CROSS")
        if not plain or not isinstance(join.this, exp.Table):
            for other in joins:
                if other.kind in ("INNER", "OUTER"):
                    other.set("kind", None)
            return
    from_ = select.args.get("from_")
    if not joins or from_ is None or not isinstance(from_.this, exp.Table):
        return
    conditions = [j.args["on"] for j in joins if j.args.get("on") is not None and not _is_true(j.args["on"])]
    where = select.args.get("where")
    if where:
        conditions.append(where.this)
    tables = [from_.this, *(join.this for join in joins)]
    if not any("@" in table.alias for table in tables) and not select.is_star:
        tables.sort(key=lambda table: table.sql(dialect=DIALECT))
    select.set("from_", exp.From(this=tables[0]))
    select.set("joins", [exp.Join(this=table, kind="CROSS") for table in tables[1:]])
    if conditions:
        select.set("where", exp.Where(this=exp.and_(*conditions, copy=False, wrap=True)))


def _is_true(node: exp.Expr) -> bool:
    return isinstance(node, exp.Boolean) and bool(node.this)


def _bottom_up(tree: exp.Expr) -> exp.Expr:
    """Sort what commutes, from the leaves up, and leave exactly the parentheses that operators need."""
    for node in reversed(list(tree.walk())):  # breadth first, reversed: children before parents
        changed = _rewrite(node)
        if changed is not node:
            if node is tree:
                tree = changed
            else:
                node.replace(changed)
    return tree


def _rewrite(node: exp.Expr) -> exp.Expr:
    if isinstance(node, exp.Paren):
        return node.this if not isinstance(node.this, _OPERATIONS) or _delimits(node.parent) else node
    if isinstance(node, exp.And | exp.Or):
        return _connector(node)
    if isinstance(node, exp.Binary):
        return _binary(node)
    if (comparison := _as_comparison(node)) is not None:
        return _binary(comparison)
    if isinstance(node, exp.Not | exp.Neg | exp.Between | exp.In):
        node.set("this", _wrapped(node.this))
    if isinstance(node, exp.Group) or (isinstance(node, exp.In) and node.expressions):
        node.set("expressions", sorted(node.expressions, key=_text))
    elif isinstance(node, exp.Ordered):
        node.set("desc", True if node.args.get("desc") else None)
    elif isinstance(node, exp.Count) and isinstance(node.this, exp.Literal) and not node.this.is_string:
        node.set("this", exp.Star())
    elif isinstance(node, exp.Cast):
        node.set("to", exp.DataType(this=exp.DataType.Type.USERDEFINED, kind=_affinity(node.to)))
    return node


def _as_comparison(node: exp.Expr) -> exp.Binary | None:
    """NOT a = b → a <> b, and a IN (1) → a = 1; None for anything else."""
    if isinstance(node, exp.Not) and type(inner := node.this.unnest()) in _NEGATED:
        return _NEGATED[type(inner)](this=inner.args["this"], expression=inner.args["expression"])
    if isinstance(node, exp.In) and len(node.expressions) == 1 and literal(node.expressions[0]) is not None:
        return exp.EQ(this=node.this, expression=node.expressions[0])
    return None


def _delimits(node: exp.Expr | None) -> bool:
    """Whether what stands within a node ends at a comma, a bracket or a keyword anyhow."""
    if isinstance(node, exp.Func):
        return not isinstance(node, exp.Binary)
    return isinstance(node, exp.Select | exp.Alias | exp.Ordered | exp.Group | exp.Where | exp.Having | exp.Join)


def _affinity(kind: exp.Expr) -> str:
    """What CAST to a type converts to: SQLite knows five, and sqlglot would write DATE(x) for CAST(x AS DATE)."""
    name = kind.sql().upper()
    return next((affinity for part, affinity in _AFFINITIES if part in name), "NUMERIC")


def _binary(node: exp.Binary) -> exp.Binary:
    """b > a → a < b, and the sides of what commutes in the order of their text."""
    if isinstance(node, exp.Escape):  # the end of a LIKE
        return node
    if type(node) in _MIRRORED:
        node = _MIRRORED[type(node)](this=node.args["expression"], expression=node.args["this"])
    left, right = _wrapped(node.args["this"]), _wrapped(node.args["expression"])
    if isinstance(node, _SORTED_SIDES) and _text(right) < _text(left):
        left, right = right, left
    node.set("this", left)
    node.set("expression", right)
    return node


def _connector(node: exp.Expr) -> exp.Expr:
    """(a AND (b AND a)) → a AND b, operands sorted; done once, at the top of a chain of the same operator."""
    kind = type(node)
    above = node.parent
    while isinstance(above, exp.Paren):
        above = above.parent
    if type(above) is kind:
        return node
    operands: dict[str, exp.Expr] = {}
    stack = [node]
    while stack:
        part = stack.pop()
        while isinstance(part, exp.Paren):
            part = part.this
        if type(part) is kind:
            stack += [part.args["expression"], part.args["this"]]
        else:
            wrapped = _wrapped(part) if isinstance(part, exp.Connector) else part
            operands[_text(wrapped)] = wrapped
    first, *rest = [operands[text] for text in sorted(operands)]
    for operand in rest:
        first = kind(this=first, expression=operand)
    return first


def _wrapped(node: exp.Expr) -> exp.Expr:
    """An operand in parentheses where it is itself an operation."""
    while isinstance(node, exp.Paren):
        node = node.this
    return exp.Paren(this=node) if isinstance(node, exp.Binary | exp.Not | exp.Between | exp.In) else node


def _text(node: exp.Expr) -> str:
    return node.sql(dialect=DIALECT, comments=False)
