"""Whether an answer may leave: one query that only reads, over names that the schema has, and that SQLite can plan.

Evaluation ("valid SQL", "schema adherence") and serving both ask here. Planning is not interruptible, so a server asks
in a process that can be killed (text2sql.serving.guard_pool).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

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
from text2sql.sql.objections import Objections, Reason, reason
from text2sql.sql.parse import MAX_QUERY_CHARS, assert_read_only, first_statement, leading_word, parse, tokens, write_in
from text2sql.sql.schema import Schema, parse_schema

MAX_REASONS = 8
_PLAN_SECONDS = 2.0
_BLANK = r"(?:\s|--[^\n]*+(?:\n|$)|/\*(?:[^*]|\*(?!/))*+\*/)*+"
_STACKED = re.compile(
    rf";{_BLANK}(DROP|DELETE|INSERT|REPLACE|UPDATE|ALTER|TRUNCATE|ATTACH|DETACH|VACUUM|PRAGMA|GRANT|REVOKE)"
    rf"{_BLANK}(?:TABLE|VIEW|INDEX|TRIGGER|SCHEMA|DATABASE|FROM|INTO|OR|['\"\w])",
    re.IGNORECASE,
)
_STACKED_CHARS = 2_000


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
        objections = Objections(tree, self.schema)
        try:
            plan_query(self._database, sql, _PLAN_SECONDS)
        except ForbiddenFunctionError as error:
            return [reason("function_not_allowed", str(error))]
        except UnsafeSqlError as error:
            return [reason("not_allowed", str(error))]
        except QueryTimeoutError as error:
            return [reason("timed_out", f"SQLite's plan {error}")]
        except ExecutionError as error:
            return _merged(objections.to_message(str(error)), list(objections.to_names()))
        return list(objections.to_what_sqlite_forgives())


def check(text: str, schema: Schema | str) -> Checked:
    """`Guard.check` for one answer; a schema that cannot be used is a reason too."""
    try:
        with Guard(schema) as guard:
            return guard.check(text)
    except SqlError as error:
        sql = first_statement(text) if len(text) <= MAX_QUERY_CHARS else ""
        return Checked(sql, (reason("schema_unusable", str(error)),))


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
