"""Whether an answer may leave: one query that only reads, over names that the schema has, and that SQLite can plan.

Evaluation ("valid SQL", "schema adherence") and serving both ask here. Planning is not interruptible, so a server asks
in a process that can be killed (text2sql.serving.guard_pool).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from sqlglot import exp

from text2sql.errors import (
    ExecutionError,
    ForbiddenFunctionError,
    ParseError,
    QueryTimeoutError,
    SqlError,
    UnsafeSqlError,
)
from text2sql.sql.database import Database, build_database
from text2sql.sql.execute import plan_query
from text2sql.sql.hints import column_names
from text2sql.sql.names import stands_for_a_column
from text2sql.sql.parse import MAX_QUERY_CHARS, assert_read_only, first_statement, leading_word, parse, tokens, write_in
from text2sql.sql.schema import Schema, Table, parse_schema
from text2sql.sql.scopes import Scope, Scopes

Code = Literal[
    "not_sql",
    "not_one_statement",
    "not_read_only",
    "not_allowed",
    "function_not_allowed",
    "unknown_table",
    "unknown_column",
    "ambiguous_column",
    "unknown_function",
    "does_not_plan",
    "does_not_run",
    "timed_out",
    "schema_unusable",
]
CODES: tuple[Code, ...] = get_args(Code)
NAME_CODES = frozenset({"unknown_table", "unknown_column", "ambiguous_column"})
"""An answer without one of these keeps to its schema."""
MAX_REASONS = 8
MAX_MESSAGE_CHARS = 300
_PLAN_SECONDS = 2.0
_NEAREST = 3
_CANDIDATES = 2_000
"""Names among which the nearest are looked for."""
_CLOSE = 0.75
_SYSTEM_COLUMNS = frozenset({"rowid", "oid", "_rowid_"})
_PLAIN = re.compile(r"\w{2,60}")
_BLANK = r"(?:\s|--[^\n]*+(?:\n|$)|/\*(?:[^*]|\*(?!/))*+\*/)*+"
_STACKED = re.compile(
    rf";{_BLANK}(DROP|DELETE|INSERT|REPLACE|UPDATE|ALTER|TRUNCATE|ATTACH|DETACH|VACUUM|PRAGMA|GRANT|REVOKE)"
    rf"{_BLANK}(?:TABLE|VIEW|INDEX|TRIGGER|SCHEMA|DATABASE|FROM|INTO|OR|['\"\w])",
    re.IGNORECASE,
)
_STACKED_CHARS = 2_000
_OBJECTIONS: tuple[tuple[str, Code], ...] = (
    ("no such table: ", "unknown_table"),
    ("no such column: ", "unknown_column"),
    ("ambiguous column name: ", "ambiguous_column"),
    ("no such function: ", "unknown_function"),
)
"""What SQLite's messages begin with, before the name."""
_SYNTAX = re.compile(r"syntax error$|^incomplete input|^unrecognized token")


class Reason(NamedTuple):
    """Why an answer may not leave; the message is one line of at most MAX_MESSAGE_CHARS."""

    code: Code
    message: str


@dataclass(frozen=True)
class Checked:
    """The query that an answer holds, and what is wrong with it: nothing where it is `valid`."""

    sql: str
    reasons: tuple[Reason, ...] = ()
    tree: exp.Expr | None = field(default=None, repr=False, compare=False)
    """The query, parsed, where it is valid."""

    @property
    def valid(self) -> bool:
        """Whether there is nothing wrong with it."""
        return not self.reasons

    @property
    def adheres(self) -> bool:
        """Whether it is SQL, and names nothing that its schema lacks."""
        return not any(reason.code in NAME_CODES or reason.code == "not_sql" for reason in self.reasons)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the tree."""
        return {"sql": self.sql, "valid": self.valid, "reasons": [list(reason) for reason in self.reasons]}

    @classmethod
    def from_dict(cls, said: dict[str, Any]) -> Checked:
        """What `to_dict` gave."""
        return cls(said["sql"], tuple(Reason(code, message) for code, message in said["reasons"]))


class Guard:
    """One schema and an empty database built from it, for any number of answers, in the thread that made it."""

    def __init__(self, schema: Schema | str) -> None:
        """Build the database.

        Raises:
            SqlError: the schema cannot be used.
        """
        self.schema = parse_schema(schema) if isinstance(schema, str) else schema
        # Text in double quotes is forgiven where strings belong, as in much of the data; the rest is found below.
        self._database: Database = build_database(self.schema, forgiving=True)

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the database."""
        self._database.close()

    def check(self, text: str) -> Checked:
        """The query that an answer starts with, judged; never raises for what the answer says."""
        if len(text) > MAX_QUERY_CHARS:
            words = f"the answer has {len(text)} characters; at most {MAX_QUERY_CHARS} are read"
            return Checked("", (reason("not_sql", words),))
        sql = first_statement(text)
        tree, objection = _read(sql)
        if tree is None or objection:
            return Checked(sql, (objection,) if objection else ())
        if stacked := _STACKED.search(text[text.find(sql) + len(sql) :][:_STACKED_CHARS]):
            words = f"one statement is allowed, and {stacked.group(1).upper()} follows the first"
            return Checked(sql, (reason("not_one_statement", words),))
        if "/*" in sql and any(match.group().startswith(("/*!", "/*M!")) for match in tokens(sql)):
            return Checked(sql, (reason("not_allowed", "MySQL would run a comment that opens with /*!"),))
        try:
            reasons = self._against_schema(sql, tree)
        except RecursionError:
            reasons = [reason("not_sql", "the query nests too deeply; flatten it")]
        return Checked(sql, tuple(reasons[:MAX_REASONS]), None if reasons else tree)

    def _against_schema(self, sql: str, tree: exp.Expr) -> list[Reason]:
        names = _Names(tree, self.schema)
        try:
            plan_query(self._database, sql, _PLAN_SECONDS)
        except ForbiddenFunctionError as error:
            return [reason("function_not_allowed", str(error))]
        except UnsafeSqlError as error:
            return [reason("not_allowed", str(error))]
        except QueryTimeoutError as error:
            return [reason("timed_out", f"SQLite's plan {error}")]
        except ExecutionError as error:
            return _merged(names.objection(str(error)), list(names.unknown()))
        return list(names.forgiven())


def check(text: str, schema: Schema | str) -> Checked:
    """`Guard.check` for one answer; a schema that cannot be used is a reason too."""
    try:
        with Guard(schema) as guard:
            return guard.check(text)
    except SqlError as error:
        sql = first_statement(text) if len(text) <= MAX_QUERY_CHARS else ""
        return Checked(sql, (reason("schema_unusable", str(error)),))


def reason(code: Code, message: str) -> Reason:
    """A reason whose message is one printable line, whatever it was made from."""
    return Reason(code, one_line(message, MAX_MESSAGE_CHARS))


def one_line(text: str, limit: int) -> str:
    """The text with every run of blanks and of characters that do not print as one space, cut at `limit` characters."""
    text = "".join(c if c.isprintable() else " " for c in text[: 4 * limit])
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _read(sql: str) -> tuple[exp.Expr | None, Reason | None]:
    """The tree, or why there is none that may be used."""
    try:
        tree = parse(sql)
    except ParseError as error:
        return None, reason("not_sql", str(error))
    except UnsafeSqlError as error:
        reads = leading_word(sql) in ("SELECT", "WITH", "VALUES", "")
        return None, reason("not_one_statement" if reads else "not_read_only", str(error))
    try:
        assert_read_only(tree)
    except UnsafeSqlError as error:
        return None, reason("not_read_only" if write_in(tree) else "not_allowed", str(error))
    except RecursionError:
        return None, reason("not_sql", "the query nests too deeply; flatten it")
    if isinstance(tree, exp.Values):
        return None, reason("not_read_only", "only SELECT is allowed, not VALUES")
    return tree, None


def _merged(first: Reason, others: list[Reason]) -> list[Reason]:
    """SQLite's objection and ours, SQLite's left out where ours says the same in more words."""
    return others if any(other.code == first.code for other in others) else [first, *others]


class _Names:
    """The names that a query uses, against those that its schema has."""

    def __init__(self, tree: exp.Expr, schema: Schema) -> None:
        self._tree, self._schema = tree, schema
        self._known = column_names(tree, schema)
        self._scopes = Scopes(tree, schema)
        self._ctes = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}

    def objection(self, message: str) -> Reason:
        """What SQLite said, with the names that may have been meant."""
        for words, code in _OBJECTIONS:
            if message.startswith(words):
                name = message.removeprefix(words)
                if code == "unknown_table":
                    return self._unknown_table(name)
                if code == "unknown_column":
                    return self._unknown_column(name.rpartition(".")[2], None)
                if code == "ambiguous_column":
                    return reason(code, f"column {name} stands in several of the tables; qualify it")
                return reason(code, f"no such function: {name}; SQLite's own functions can be used")
        return reason("not_sql" if _SYNTAX.search(message) else "does_not_plan", message)

    def unknown(self) -> Iterator[Reason]:
        """Every table that the schema lacks, then every column."""
        tables = [table.name for table in self._tree.find_all(exp.Table)]
        for name in dict.fromkeys(tables):
            if name.lower() not in self._ctes and self._schema.table(name) is None:
                yield self._unknown_table(name)
        seen: set[tuple[str, str]] = set()
        for column in self._tree.find_all(exp.Column):
            key = (column.table.lower(), column.name.lower())
            if isinstance(column.this, exp.Star) or key in seen:
                continue
            seen.add(key)
            quoted_text = bool(column.this.args.get("quoted")) and not column.table
            if self._is_missing(column) and not (quoted_text and not self._objectionable(column)):
                yield self._unknown_column(column.name, column)

    def forgiven(self) -> Iterator[Reason]:
        """What SQLite let pass and the schema does not have: text in double quotes that is no string, and row ids."""
        for column in self._tree.find_all(exp.Column):
            if not isinstance(column.this, exp.Identifier):
                continue
            if column.name.lower() in _SYSTEM_COLUMNS and column.name.lower() not in self._known:
                yield self._unknown_column(column.name, column)
                continue
            text = column.this.args.get("quoted") and not column.table and self._is_missing(column)
            if text and self._objectionable(column):
                yield self._unknown_column(column.name, column)

    def _is_missing(self, column: exp.Column) -> bool:
        """Whether nothing in reach of a column has its name; False where that cannot be known."""
        name, qualifier = column.name.lower(), column.table.lower()
        if not qualifier and name not in self._known:
            return True
        scope = self._scopes.of(column)
        while scope is not None:
            if qualifier:
                if qualifier in scope.sources:
                    table = scope.sources[qualifier]
                    return table is not None and table.column(name) is None
            elif _may_have(scope, name):
                return False
            scope = scope.parent
        return True

    def _objectionable(self, column: exp.Column) -> bool:
        """Whether text in double quotes was meant to be a column: by where it stands, or by how near it is to one."""
        if stands_for_a_column(column, self._known):
            return True
        return not _is_compared_with_a_column(column) and any(
            _is_misspelling(column.name.lower(), c.name.lower()) for t in self._tables() for c in t.columns
        )

    def _tables(self) -> list[Table]:
        """The tables of the schema that the query reads, each once."""
        return list({id(t): t for scope in self._scopes.all for t in scope.sources.values() if t}.values())

    def _unknown_table(self, name: str) -> Reason:
        near = _nearest(name, (table.name for table in self._schema.tables))
        return reason("unknown_table", f"no table {_shown(name)} in the schema{_listed('; nearest', near)}")

    def _unknown_column(self, name: str, column: exp.Column | None) -> Reason:
        tables = self._tables()
        scope, qualifier = (self._scopes.of(column), column.table) if column is not None else (None, "")
        while scope is not None and qualifier and qualifier.lower() not in scope.sources:
            scope = scope.parent
        if qualifier and scope is None:
            return reason("unknown_column", f"{_shown(qualifier)}.{_shown(name)}: the query has no {_shown(qualifier)}")
        if qualifier and scope is not None and (table := scope.sources[qualifier.lower()]):
            tables = [table]
        where = " in " + ", ".join(_shown(table.name) for table in tables[:3]) if tables else ""
        owners = [table.name for table in self._schema.tables if table.column(name) and table not in tables]
        near = _nearest(name, (c.name for table in tables for c in table.columns))
        hint = _listed("; it is a column of", owners[:_NEAREST]) or _listed("; nearest", near)
        return reason("unknown_column", f"no column {_shown(name)}{where}{hint}")


def _may_have(scope: Scope, name: str) -> bool:
    """Whether a source of a SELECT has such a column, or one whose columns are not known, or its list such an alias."""
    if any(table is None or table.column(name) for table in scope.sources.values()):
        return True
    return any(isinstance(p, exp.Alias) and p.alias.lower() == name for p in scope.select.expressions)


def _is_compared_with_a_column(text: exp.Expr) -> bool:
    """Whether it stands where the value of a column is asked for, so that looking like a name says nothing."""
    parent = text.parent
    if isinstance(parent, exp.In):
        return text is not parent.this
    if not isinstance(parent, exp.Binary):
        return False
    other = parent.args["expression"] if text is parent.this else parent.this
    return isinstance(other, exp.Column | exp.Func) and not (
        isinstance(other, exp.Column) and bool(other.this.args.get("quoted"))
    )


def _is_misspelling(text: str, name: str) -> bool:
    """Whether a word is nearly a name, or is it."""
    return bool(_PLAIN.fullmatch(text)) and difflib.SequenceMatcher(None, text, name).ratio() >= _CLOSE


def _nearest(name: str, candidates: Iterable[str]) -> list[str]:
    by_lower: dict[str, str] = {}
    for candidate in candidates:
        by_lower.setdefault(candidate.lower()[:60], candidate)
        if len(by_lower) == _CANDIDATES:
            break
    found = difflib.get_close_matches(name.lower()[:60], by_lower, n=_NEAREST, cutoff=0.5)
    return [by_lower[match] for match in found]


def _listed(words: str, names: list[str]) -> str:
    return f"{words} {', '.join(map(_shown, names))}" if names else ""


def _shown(name: str) -> str:
    return one_line(name, 60)
