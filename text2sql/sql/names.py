"""Names in a query that its schema does not have: one reading, for evaluation, serving and repair of data alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from sqlglot import exp

from text2sql.errors import SqlError
from text2sql.sql.hints import column_names, literal
from text2sql.sql.parse import DIALECT, parse
from text2sql.sql.schema import Schema, parse_schema
from text2sql.sql.scopes import Scope, Scopes

_ROW_IDS = frozenset({"rowid", "oid", "_rowid_"})

Names = frozenset[str] | None
"""Lower-case names of columns; None where they cannot be known."""


@dataclass(frozen=True)
class Invented:
    """A name that the schema does not have."""

    kind: Literal["table", "column"]
    name: str
    """As the query writes it, with its qualifier."""
    node: exp.Column | None = field(default=None, compare=False, repr=False)
    """Where it stands first; None for a table, and for a column of USING."""

    @property
    def is_read_as_text(self) -> bool:
        """A column in double quotes and without a qualifier: SQLite takes such a one for a string, and says nothing."""
        return self.node is not None and _is_quoted(self.node)


def invented_names(tree: exp.Expr, schema: Schema) -> list[Invented]:
    """Tables, then columns that a query names and its schema, its CTEs and its aliases do not have; each one once.

    What cannot be known, as the columns of an invented table, is not called invented. Text in double quotes that names
    no column in reach is a string to SQLite, and is taken for one where a string makes sense.
    """
    return names_of(tree, schema)[0]


def names_of(tree: exp.Expr, schema: Schema) -> tuple[list[Invented], list[exp.Column]]:
    """`invented_names`, and the texts in double quotes that were taken for strings."""
    resolver = _Resolver(tree, schema)
    tables = [Invented("table", table.name) for table in tree.find_all(exp.Table) if not resolver.knows_table(table)]
    unknown = [column for column in tree.find_all(exp.Column) if not resolver.reaches(column)]
    strings = [column for column in unknown if _is_quoted(column) and not resolver.must_be_column(column)]
    taken = set(map(id, strings))
    columns = [
        Invented("column", f"{column.table}.{column.name}" if column.table else column.name, column)
        for column in unknown
        if id(column) not in taken
    ]
    shared = [Invented("column", name) for name in resolver.unshared()]
    return list(dict.fromkeys([*tables, *columns, *shared])), strings


def adheres(sql: str, schema: Schema) -> bool:
    """Whether a query invents no name; false for text that is not one query."""
    try:
        return not invented_names(parse(sql), schema)
    except (SqlError, RecursionError):
        return False


def adheres_to(sql: str, context: str) -> bool:
    """`adheres` to a schema given as CREATE TABLE statements; false where these cannot be read."""
    try:
        return adheres(sql, parse_schema(context))
    except SqlError:
        return False


def stands_for_a_column(text: exp.Expr, names: frozenset[str]) -> bool:
    """Whether a string makes no sense there: selected, sorted, grouped or parted by, aggregated, opposite a literal."""
    node, parent = text, text.parent
    while isinstance(parent, exp.Paren | exp.Distinct):
        node, parent = parent, parent.parent
    if isinstance(parent, exp.Select | exp.Alias | exp.Ordered | exp.Group | exp.Distinct):
        return True
    if isinstance(parent, exp.AggFunc):
        return node is parent.this
    if isinstance(parent, exp.Window):
        return node.arg_key == "partition_by"
    if isinstance(parent, exp.Between | exp.In) and node is parent.this:
        opposite = [parent.args.get("low"), parent.args.get("high"), *parent.expressions]
    elif isinstance(parent, exp.Binary):
        opposite = [parent.args["expression"] if node is parent.this else parent.this]
    else:
        return False
    found = [other for other in opposite if other is not None]
    return bool(found) and all(isinstance(o, exp.Null) or literal(o, names) is not None for o in found)


def _is_quoted(column: exp.Column) -> bool:
    return not column.table and isinstance(column.this, exp.Identifier) and bool(column.this.args.get("quoted"))


class _Resolver:
    """Looks names up in one query; what it finds out about a source or a SELECT it keeps."""

    def __init__(self, tree: exp.Expr, schema: Schema) -> None:
        self._schema = schema
        self._tables = {table.name.lower() for table in schema.tables}
        self._scopes = Scopes(tree, schema)
        self._by_select = {id(scope.select): scope for scope in self._scopes.all}
        self._ctes = {cte.alias.lower(): cte for cte in tree.find_all(exp.CTE)}
        self._words = column_names(tree, schema)
        self._columns: dict[int, Names] = {}
        self._visible: dict[int, Names] = {}
        self._given: dict[int, frozenset[str]] = {}

    def knows_table(self, table: exp.Table) -> bool:
        name = table.name.lower()
        return name in self._tables or name in self._ctes or not isinstance(table.this, exp.Identifier)

    def must_be_column(self, text: exp.Column) -> bool:
        """Whether a string would make no sense where the text stands."""
        return stands_for_a_column(text, self._words)

    def reaches(self, column: exp.Column) -> bool:
        """Whether a source in reach of the column has it, or may have it."""
        name, qualifier = column.name.lower(), column.table.lower()
        scope = self._scopes.of(column)
        if scope is None or (not qualifier and self._is_alias(column, name, scope)):
            return True
        while scope is not None:
            if qualifier and qualifier in scope.nodes:
                columns = self._outputs(scope, qualifier)
                if columns is None or name in columns or name in _ROW_IDS or isinstance(column.this, exp.Star):
                    return True
            elif not qualifier:
                columns = self._all_outputs(scope)
                if columns is None or name in columns or (name in _ROW_IDS and scope.nodes):
                    return True
            scope = scope.parent
        return False

    def unshared(self) -> Iterator[str]:
        """Columns of USING that are not in two of the sources."""
        for scope in self._scopes.all:
            names = [n.name for join in scope.select.args.get("joins") or [] for n in join.args.get("using") or []]
            sources = [self._outputs(scope, alias) for alias in scope.nodes] if names else []
            for name in names:
                if sum(columns is None or name.lower() in columns for columns in sources) < 2:
                    yield name

    def _is_alias(self, column: exp.Column, name: str, scope: Scope) -> bool:
        """Whether a SELECT around it, or one of its set operation, gives something that name: not in its own list."""
        above = column.find_ancestor(exp.Select, exp.SetOperation)
        if isinstance(above, exp.SetOperation):
            return name in self._aliases(above)
        current: Scope | None = scope
        while current is not None:
            if name in self._aliases(current.select):
                return not self._is_selected(column, current.select)
            current = current.parent
        return False

    def _aliases(self, query: exp.Expr) -> frozenset[str]:
        """What a SELECT, or any SELECT of a set operation, calls its columns with AS."""
        if id(query) not in self._given:
            selects = [query] if isinstance(query, exp.Select) else query.find_all(exp.Select)
            self._given[id(query)] = frozenset(
                p.alias.lower() for select in selects for p in select.expressions if isinstance(p, exp.Alias)
            )
        return self._given[id(query)]

    @staticmethod
    def _is_selected(column: exp.Expr, select: exp.Select) -> bool:
        node: exp.Expr | None = column
        while node is not None and node.parent is not select:
            node = node.parent
        return node is not None and node.arg_key == "expressions"

    def _outputs(self, scope: Scope, alias: str) -> Names:
        """The columns of one source of a SELECT."""
        node, table = scope.nodes[alias], scope.sources[alias]
        if id(node) not in self._columns:
            self._columns[id(node)] = None  # for a CTE that reads itself
            if table is not None:
                self._columns[id(node)] = frozenset(column.name.lower() for column in table.columns)
            else:
                self._columns[id(node)] = self._derived(node)
        return self._columns[id(node)]

    def _all_outputs(self, scope: Scope) -> Names:
        """The columns of all sources of a SELECT together."""
        if id(scope) not in self._visible:
            found = [self._outputs(scope, alias) for alias in scope.nodes]
            known = [columns for columns in found if columns is not None]
            self._visible[id(scope)] = frozenset().union(*known) if len(known) == len(found) else None
        return self._visible[id(scope)]

    def _derived(self, source: exp.Expr) -> Names:
        """The columns of a subquery in FROM, or of a CTE by its name."""
        query = self._ctes.get(source.name.lower()) if isinstance(source, exp.Table) else source
        if query is None:
            return None
        named = query.args["alias"].columns if query.args.get("alias") else []
        if named:
            return frozenset(column.name.lower() for column in named)
        while isinstance(query, exp.CTE | exp.Subquery | exp.Paren | exp.SetOperation):
            query = query.this
        scope = self._by_select.get(id(query))
        if scope is None:
            return None
        names: set[str] = set()
        for selected in scope.select.expressions:
            columns = self._selected(selected, scope)
            if columns is None:
                return None
            names |= columns
        return frozenset(names)

    def _selected(self, selected: exp.Expr, scope: Scope) -> Names:
        """What one item of a SELECT list is called; a star has many names."""
        if isinstance(selected, exp.Star):
            return self._all_outputs(scope)
        if isinstance(selected, exp.Column) and isinstance(selected.this, exp.Star):
            qualifier = selected.table.lower()
            return self._outputs(scope, qualifier) if qualifier in scope.nodes else None
        return frozenset({selected.alias_or_name.lower() or selected.sql(dialect=DIALECT).lower()})
