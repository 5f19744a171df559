"""Databases in memory: built from a schema, and filled so that a query and its near misses give different results."""

from __future__ import annotations

import random
import re
import sqlite3
import zlib
from itertools import chain

from text2sql.errors import ExecutionError
from text2sql.sql.hints import Hints, Key, Value
from text2sql.sql.schema import Column, Schema, Table
from text2sql.sql.values import dates, fresh, numbers, satisfies, texts

_MAX_FILLED_TABLES = 30
_MAX_ROWS = 120
_TIED_VALUES = 4
_SMALL_FROM = 8


class Database(sqlite3.Connection):
    """A connection that knows whether double-quoted text may stand for a string; `run_query` heeds it."""

    forgiving: bool = False


def build_database(schema: Schema, forgiving: bool = False) -> Database:
    """Empty tables in memory; constraints are left out, so that any values can be tried.

    Raises:
        ExecutionError: SQLite refuses the schema, as it does when a table or a column is declared twice.
    """
    connection = sqlite3.connect(":memory:", factory=Database, isolation_level=None, cached_statements=0)
    connection.forgiving = forgiving
    try:
        for table in schema.tables:
            columns = ", ".join(f"{quote(column.name)} {_type(column)}" for column in table.columns)
            connection.execute(f"CREATE TABLE {quote(table.name)} ({columns})")
    except (sqlite3.Error, ValueError) as error:
        connection.close()
        raise ExecutionError(str(error)) from None
    return connection


def fill_database(connection: sqlite3.Connection, schema: Schema, literals: Hints, seed: int) -> None:
    """Insert 10 to 40 rows a table (up to 120 where counts ask for it), or 3 to 8, the same for the same arguments.

    Rows that satisfy the query's conditions, rows that miss one of them by a little, and others are mixed; linked
    columns share values. seed % 4 picks the kind: 0 nothing repeats but what is grouped by, so that no other row covers
    for a near miss; 1 keys unique, with NULLs; 2 keys repeat, with NULLs; 3 keys unique, few distinct values. In 1 and
    3 the leading columns of ORDER BY have ties, in 2 whole rows repeat. Where seed % 8 is 1, no number is next to one
    of the query's. Of each 64 seeds, a third from the eighth on has small tables, whose sums are near their bounds.

    Of very many tables, those that the query names are filled, and others up to 30 in all.
    """
    filler = _Filler(schema, literals, seed)
    connection.execute("BEGIN")
    tables = sorted(schema.tables, key=lambda table: table.name.lower() not in literals.tables)
    for table in tables[:_MAX_FILLED_TABLES]:
        rows = filler.rows(table)
        places = ", ".join("?" * len(table.columns))
        connection.executemany(f"INSERT INTO {quote(table.name)} VALUES ({places})", rows)  # noqa: S608
    connection.execute("COMMIT")


def turn_database(connection: sqlite3.Connection, schema: Schema) -> None:
    """Let every table be read in the opposite order: a query whose answer changes with that has no defined answer."""
    for table in schema.tables:
        row_id = next((name for name in ("rowid", "_rowid_", "oid") if not table.column(name)), None)
        if row_id:
            connection.execute(f"UPDATE {quote(table.name)} SET {row_id} = -{row_id}")  # noqa: S608


def retyped(schema: Schema, hints: Hints) -> Schema:
    """The schema with number types where the query treats a column as a number.

    sql-create-context declares nearly everything VARCHAR, and SQLite would compare such numbers as text: '9' > '10'.
    """
    types: dict[Key, str] = {}
    for key in hints.numeric:
        table = schema.table(key[0])
        column = table.column(key[1]) if table else None
        text = any(isinstance(value, str) for _, value in hints.conditions.get(key, []))
        if column and not column.numeric and not text and key not in hints.temporal:
            types[key] = "NUMERIC"
    for _ in hints.links:  # a column compared with a number column is one too; chains need several rounds
        before = len(types)
        for one, other in chain(hints.links, ((b, a) for a, b in hints.links)):
            if one in types and other not in types and not hints.conditions.get(other):
                types[other] = "NUMERIC"
        if len(types) == before:
            break
    return schema.retype(types)


def quote(name: str) -> str:
    """A name as SQLite reads it and nothing else."""
    return '"' + name.replace('"', '""') + '"'


def _type(column: Column) -> str:
    """Only letters, digits and a length: the declared type goes into DDL."""
    return re.sub(r"[^\w (),]", "", column.type) if column.type.count("(") == column.type.count(")") else ""


class _Filler:
    def __init__(self, schema: Schema, hints: Hints, seed: int) -> None:
        self._rng = random.Random(seed)
        self._hints = hints
        self._unique_keys = seed % 4 != 2
        self._one_to_one = seed % 4 == 0
        self._nulls = 0.08 if seed % 4 in (1, 2) else 0.0
        self._narrow = seed % 4 == 3
        self._beside = seed % 8 != 1
        self._centred = seed % 2 == 0
        self._repeats = seed % 4 == 2
        self._few = seed % 64 >= _SMALL_FROM and seed % 3 == 0
        self._tied = hints.leading if seed % 2 else set()
        self._sizes = sorted({s for n in hints.sizes for s in (n - 1, n, n + 1, n + 2) if s > 0})
        self._groups = _groups(schema, hints)
        self._columns = {(t.name.lower(), c.name.lower()): c for t in schema.tables for c in t.columns}
        self._best: dict[tuple[Key, int | None], list[Value]] = {}
        self._misses = seed % 64 * 7  # another start for each database of a suite
        self._pools: dict[Key, tuple[list[Value], list[Value]]] = {}

    def rows(self, table: Table) -> list[tuple[Value | None, ...]]:
        """Rows for one table."""
        name = table.name.lower()
        keys = [(name, column.name.lower()) for column in table.columns]
        unique = [self._is_unique(key) for key in keys]
        linked_unique = any(u and key in self._groups for u, key in zip(unique, keys, strict=True))
        count = self._rng.randint(11, 16) if linked_unique else self._rng.randint(20, 34)
        if not linked_unique:
            groups = self._hints.limit + 3  # of 1, 2, 3, … rows
            count = max(count, 2 * self._hints.limit + 5, sum(self._sizes) + 1, groups * (groups - 1) // 2)
        if self._few:
            count = self._rng.randint(3, 8)
        count = min(max(count, self._hints.limit + 3), _MAX_ROWS)
        conditioned = [i for i, key in enumerate(keys) if self._hints.conditions.get(key)]
        count += 6 * max(len(conditioned) - 2, 0)
        plans = [self._plan(keys, conditioned, i) for i in range(count)]
        columns = [
            self._column(key, own, [plan.get(i) for plan in plans])
            for i, (key, own) in enumerate(zip(keys, unique, strict=True))
        ]
        for place, i in enumerate(conditioned):  # NULL once in each, where the other conditions are met
            if self._has_nulls(keys[i]) and not unique[i]:
                columns[i][5 * place % count] = None
        for key, cells in zip(keys, columns, strict=True):
            if key in self._hints.averaged and self._centred:
                _centre(cells)
        rows = list(zip(*columns, strict=True))
        if self._repeats and not any(column.primary or column.unique for column in table.columns):
            rows += rows[: len(rows) // 6]
        self._rng.shuffle(rows)
        return rows

    def _plan(self, keys: list[Key], conditioned: list[int], row: int) -> dict[int, Value]:
        """What the conditions ask of one row: all met, all met but one, or anything at all."""
        if not conditioned or (row % 5 == 4 and self._rng.random() < 0.8):
            return {}
        plan = {i: self._meeting(keys[i]) for i in conditioned}
        if row % 5 >= 2:
            missed = conditioned[self._misses % len(conditioned)]
            near = self._pool(keys[missed])[1] or self._pool(keys[missed])[0]
            plan[missed] = near[self._misses // len(conditioned) % len(near)]  # each in turn: none is left to chance
            self._misses += 1
        return plan

    def _meeting(self, key: Key) -> Value:
        """A value that meets all conditions on a column, or as many as can be met; sometimes just one of them."""
        conditions = self._hints.conditions[key]
        only = self._rng.randrange(len(conditions)) if len(conditions) > 1 and self._rng.random() < 0.5 else None
        if (key, only) not in self._best:
            pool, near = self._pool(key)
            asked = conditions if only is None else [conditions[only]]
            candidates = near + pool[len(near) : len(near) + 12]
            scores = [sum(satisfies(value, op, literal) for op, literal in asked) for value in candidates]
            best = max(scores)
            self._best[key, only] = [v for v, score in zip(candidates, scores, strict=True) if score == best]
        return self._rng.choice(self._best[key, only])

    def _column(self, key: Key, unique: bool, wanted: list[Value | None]) -> list[Value | None]:
        rng = self._rng
        pool, near = self._pool(key)
        if key in self._tied and not unique:
            pool, near = pool[:_TIED_VALUES], near[:_TIED_VALUES]
        if unique:
            return self._distinct(pool[: len(wanted) + 2] if key in self._groups else pool, wanted)
        deck = self._deck(key, pool, len(wanted))
        cells: list[Value | None] = []
        for value in wanted:
            if value is not None:
                cells.append(value)
            elif self._has_nulls(key) and rng.random() < self._nulls:
                cells.append(None)
            elif near and rng.random() < 0.6:
                cells.append(rng.choice(near))
            else:
                cells.append(deck.pop())
        return cells

    def _distinct(self, pool: list[Value], wanted: list[Value | None]) -> list[Value | None]:
        rng = self._rng
        used: set[Value] = set()
        rest = rng.sample(pool, len(pool))
        cells: list[Value | None] = []
        for wish in wanted:
            value = wish
            while value is None or value in used:
                value = rest.pop() if rest else fresh(rng, pool[0])
            used.add(value)
            cells.append(value)
        return cells

    def _deck(self, key: Key, pool: list[Value], count: int) -> list[Value]:
        """`count` values of which no two are equally frequent, so that counts and modes have no ties."""
        rng = self._rng
        if key in self._groups:  # each table leaves out some keys, so that NOT IN, EXCEPT and LEFT JOIN show
            own = pool[: 5 if self._narrow else 9]
            chosen = rng.sample(own, max(len(own) - rng.randint(1, 3), 2))
        else:
            chosen = rng.sample(pool, min(len(pool), max(12, self._hints.limit + 3)))
        groups = max(rng.randint(4, 6) if self._narrow else rng.randint(6, 9), min(self._hints.limit + 3, 14))
        least = 2 if self._narrow else 1  # of one row, every aggregate is the same
        sizes = sorted({1, *self._sizes}) if self._sizes else list(range(least, groups + least - 1))
        sizes = sizes[: len(chosen)]
        while len(sizes) > 1 and sum(sizes) > count:
            sizes.pop()
        rest = max(count - sum(sizes), 0)
        if self._sizes and rest and len(sizes) < len(chosen):
            sizes.append(rest)
        else:
            sizes[-1] += rest
        deck = [value for value, size in zip(chosen, sizes, strict=False) for _ in range(size)]
        rng.shuffle(deck)
        return deck

    def _has_nulls(self, key: Key) -> bool:
        return bool(self._nulls) and key not in self._hints.ordered and not self._columns[key].required

    def _is_unique(self, key: Key) -> bool:
        if self._columns[key].primary or self._columns[key].unique:
            return True
        if key in self._tied or self._columns[key].boolean:
            return False
        if key in self._hints.ordered and self._unique_keys:  # where ties make the answer a matter of luck, it shows
            return True
        if self._one_to_one and key not in self._hints.grouped and not self._hints.conditions.get(key):
            return True
        if not self._unique_keys:
            return False
        return key in self._hints.determining or (key in self._groups and _names_its_table(key))

    def _pool(self, key: Key) -> tuple[list[Value], list[Value]]:
        group = self._groups.get(key, (key,))
        root = group[0]
        if root not in self._pools:
            conditions = [c for member in group for c in self._hints.conditions.get(member, [])]
            number = any(k in self._hints.numeric or self._columns[k].numeric for k in group if k in self._columns)
            temporal = any(k in self._hints.temporal or self._columns[k].temporal for k in group if k in self._columns)
            size = 40 if any(k in self._hints.ordered or self._columns[k].primary for k in group) else 16
            rng = random.Random(self._rng.getrandbits(32) ^ zlib.crc32(".".join(root).encode()))
            truths: list[Value] = [0, 1]
            if any(self._columns[k].boolean for k in group) and all(value in truths for _, value in conditions):
                pool, near = truths, truths
            elif number and not temporal:
                pool, near = numbers(rng, conditions, size, beside=self._beside)
            else:
                pool, near = (dates if temporal else texts)(rng, conditions, size)
            if number and not temporal and (odd := [(op, v) for op, v in conditions if isinstance(v, str)]):
                beside = texts(rng, odd, 0)[1]  # SQLite keeps text in a number column where it is no number
                pool, near = list(dict.fromkeys([*beside, *pool])), list(dict.fromkeys([*beside, *near]))
            self._pools[root] = (pool, near)
        return self._pools[root]


def _centre(cells: list[Value | None]) -> None:
    """Change a value or two so that one equals the average of the column, exactly."""
    whole = [i for i, cell in enumerate(cells) if isinstance(cell, int)]
    if len(whole) < 3 or any(isinstance(cell, float | str) for cell in cells):
        return
    middle, adjusted, *others = reversed(whole)
    rest = sum(int(cells[i] or 0) for i in others) + int(cells[adjusted] or 0)
    short = -rest % (len(whole) - 1)
    cells[adjusted] = int(cells[adjusted] or 0) + short
    cells[middle] = (rest + short) // (len(whole) - 1)


def _names_its_table(key: Key) -> bool:
    """id, or <table>_id in <table>: the table's own key."""
    table, column = (re.sub(r"[^a-z0-9]", "", part) for part in key)
    stem = table.removesuffix("es") if table.endswith(("ses", "xes", "ches")) else table.removesuffix("s")
    return column in {f"{start}{end}" for start in ("", table, stem) for end in ("id", "code", "number", "no", "key")}


def _groups(schema: Schema, hints: Hints) -> dict[Key, tuple[Key, ...]]:
    """Linked columns, by member: those that the query compares, and declared foreign keys."""
    members: dict[Key, set[Key]] = {}
    known = {(t.name.lower(), c.name.lower()) for t in schema.tables for c in t.columns}
    links = list(hints.links)
    for table in schema.tables:
        for column in table.columns:
            if column.references:
                other, name = column.references
                links.append(((table.name.lower(), column.name.lower()), (other.lower(), (name or "id").lower())))
    for first, second in links:
        if first in known and second in known:
            joined = members.get(first, {first}) | members.get(second, {second})
            for member in joined:
                members[member] = joined
    return {key: tuple(sorted(group)) for key, group in members.items()}
