"""Which table a column of a query belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlglot import exp

from text2sql.sql.schema import Schema, Table


@dataclass
class Scope:
    """One SELECT and what stands in its FROM."""

    select: exp.Select
    parent: Scope | None
    sources: dict[str, Table | None] = field(default_factory=dict)
    """Lower-case alias → table of the schema; None for a subquery, a CTE or an unknown table."""
    nodes: dict[str, exp.Expr] = field(default_factory=dict)
    """Lower-case alias → its node in the tree."""


@dataclass(frozen=True)
class Resolved:
    """Where a column comes from: the alias in a scope `level` SELECTs up."""

    scope: Scope
    alias: str
    level: int

    @property
    def table(self) -> Table | None:
        """The table of the schema, where the source is one."""
        return self.scope.sources[self.alias]


class Scopes:
    """The scopes of a query, found once; the tree must not lose nodes while this is used."""

    def __init__(self, tree: exp.Expr, schema: Schema | None) -> None:
        self._ctes = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
        self._schema = schema
        self._scopes: dict[int, Scope] = {}
        self.all: list[Scope] = []
        for select in tree.find_all(exp.Select):
            self._add(select)

    def _add(self, select: exp.Select) -> Scope:
        known = self._scopes.get(id(select))
        if known:
            return known
        above = select.parent_select
        scope = Scope(select, self._add(above) if isinstance(above, exp.Select) else None)
        from_ = select.args.get("from_")
        for node in [from_.this if from_ else None, *(join.this for join in select.args.get("joins") or [])]:
            if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
                alias = node.alias_or_name.lower()
                known_table = self._schema.table(node.name) if self._schema else None
                scope.sources[alias] = None if node.name.lower() in self._ctes else known_table
                scope.nodes[alias] = node
            elif node is not None:
                alias = node.alias_or_name.lower() or f"@{len(scope.sources)}"
                scope.sources[alias] = None
                scope.nodes[alias] = node
        self._scopes[id(select)] = scope
        self.all.append(scope)
        return scope

    def of(self, node: exp.Expr) -> Scope | None:
        """The scope a node stands in; ORDER BY of a set operation counts to its first SELECT."""
        above = node.find_ancestor(exp.Select, exp.SetOperation)
        while isinstance(above, exp.SetOperation | exp.Subquery):
            above = above.this
        return self._scopes.get(id(above)) if above is not None else None

    def resolve(self, column: exp.Column) -> Resolved | None:
        """The source of a column, looked for from the innermost SELECT outwards as SQL does."""
        scope, level = self.of(column), 0
        qualifier, name = column.table.lower(), column.name
        while scope is not None:
            alias = self._source(scope, qualifier, name)
            if alias is not None:
                return Resolved(scope, alias, level)
            scope, level = scope.parent, level + 1
        return None

    def _source(self, scope: Scope, qualifier: str, name: str) -> str | None:
        if qualifier:
            return qualifier if qualifier in scope.sources else None
        owners = [alias for alias, table in scope.sources.items() if table is not None and table.column(name)]
        if owners:
            return owners[0] if len(owners) == 1 else None
        # Columns of subqueries, CTEs and unknown tables are not known: with one such source alone, it is that.
        unknown = [alias for alias, table in scope.sources.items() if table is None]
        return unknown[0] if len(unknown) == 1 and len(scope.sources) == 1 else None
