"""Drawing rows: a construct on a database, as a question and as SQL."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import islice
from typing import Literal

from text2sql.data.synthetic.catalogue import Construct, Kind, constructs
from text2sql.data.synthetic.schema import Column, Database, Schemas, Table

Profile = Literal["full", "base", "reading"]
Row = dict[str, str]

ROWS_A_SCHEMA = (3, 7)
"""Questions asked of one database: from, to."""

TABLES_JOINED = {1: (1, 0, 0), 2: (30, 70, 0), 3: (15, 30, 55)}
"""Tables in the database → weights of queries over one, two and three of them."""

Choices = dict[str, tuple[str, ...]]

OPERATORS: Choices = {
    ">": ("greater than", "above", "over", "more than"),
    "<": ("less than", "below", "under"),
    ">=": ("at least",),
    "<=": ("at most",),
}
"""Operator → its words; the base profile knows the first."""

AGGREGATES: Choices = {
    "AVG": ("average", "mean"),
    "SUM": ("total", "summed"),
    "MIN": ("minimum", "smallest", "lowest"),
    "MAX": ("maximum", "largest", "highest"),
}
TOPS: Choices = {" DESC": ("highest", "largest", "greatest"), "": ("lowest", "smallest")}
WAYS: Choices = {" DESC": ("descending",), "": ("ascending",)}
EXTREMES: Choices = {"MIN": ("lowest", "smallest"), "MAX": ("highest", "largest")}

WORDS: dict[str, Choices] = {
    "op": OPERATORS,
    "agg": AGGREGATES,
    "top": TOPS,
    "way": WAYS,
    "extreme": EXTREMES,
}

_CHOICE = re.compile(r"\[([^\]]*)\]")


def generate_rows(count: int, seed: int = 0, profile: Profile = "full") -> list[Row]:
    """`count` rows with the columns question, context, answer and construct.

    The same seed and profile give the same rows, and fewer of them the same rows' beginning. No two databases share a
    table, and profile `full` shares none with the others, which train the base model: `base` knows a part of the
    constructs and phrasings, and `reading` is text that never tells what a question means: the other phrasings with the
    SQL left empty, and SQL of some further constructs with the question left empty.
    """
    return list(islice(stream_rows(seed, profile), count))


def stream_rows(seed: int = 0, profile: Profile = "full") -> Iterator[Row]:
    """The rows of `generate_rows`, without end."""
    rng = random.Random(f"text2sql:{profile}:{seed}")
    schemas = Schemas(rng, profile)
    known = [c for c in constructs() if {"full": True, "base": bool(c.base), "reading": c.read or c.base}[profile]]
    by_size = {size: [c for c in known if len(c.tables) == size] for size in (1, 2, 3)}
    while True:
        database = schemas.draw()
        asked: set[str] = set()
        for _ in range(rng.randint(*ROWS_A_SCHEMA)):
            weights = [w if by_size[size] else 0 for size, w in enumerate(TABLES_JOINED[len(database.tables)], start=1)]
            size = rng.choices((1, 2, 3), weights)[0]
            row = _ask(rng, rng.choice(by_size[size]), database, profile)
            if row is not None and row["question"] + row["answer"] not in asked:
                asked.add(row["question"] + row["answer"])
                yield row


def _ask(rng: random.Random, construct: Construct, database: Database, profile: Profile) -> Row | None:
    """One row, or None when the tables drawn lack the columns that the construct wants."""
    tables, keys = _joined(rng, construct, database)
    drawn = _draw_columns(rng, construct, tables)
    if drawn is None:
        return None
    question: dict[str, object] = dict(zip("tuw", map(_Noun, tables), strict=False))
    sql: dict[str, object] = dict(zip("tuw", (table.name for table in tables), strict=False))
    sql |= dict(zip(("k", "k2"), keys, strict=False))
    for slot, (position, column) in drawn.items():
        alias = f"T{position + 1}." if len(tables) > 1 else ""
        values = _Values(rng, column.kind)
        question[slot] = _Phrase(column.phrase, values)
        sql[slot] = _Identifier(alias + column.name, column.name, values)
    for name, choices in WORDS.items():
        sql[name], question[name] = _pick(rng, choices, profile)
    question["n"] = sql["n"] = rng.randint(2, 9)
    row = {
        "question": _phrase(rng, construct, profile, question),
        "context": database.context,
        "answer": construct.sql.format_map(sql),
        "construct": construct.name,
    }
    if profile == "reading":
        row["question" if construct.read and rng.random() < 0.5 else "answer"] = ""
    return row


def _phrase(rng: random.Random, construct: Construct, profile: Profile, slots: dict[str, object]) -> str:
    """The question in one of the profile's phrasings, each [x|y] decided."""
    templates = {"base": construct.base, "reading": construct.more, "full": construct.base + construct.more}[profile]
    template = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), rng.choice(templates))
    text = template.format_map(slots)
    return text[0].upper() + text[1:]


def _joined(rng: random.Random, construct: Construct, database: Database) -> tuple[list[Table], list[str]]:
    """The construct's tables in its order, and the keys between neighbours."""
    size = len(construct.tables)
    start = rng.randint(0, len(database.tables) - size)
    tables = list(database.tables[start : start + size])
    keys = list(database.keys[start : start + size - 1])
    if size > 1 and construct.tables != "pcg"[:size]:  # the file writes the chain from its far end
        tables.reverse()
        keys.reverse()
    return tables, keys


def _draw_columns(
    rng: random.Random, construct: Construct, tables: list[Table]
) -> dict[str, tuple[int, Column]] | None:
    drawn: dict[str, tuple[int, Column]] = {}
    for slot, spec in construct.slots.items():
        position, _, sort = spec.rpartition(".")
        index = int(position or 1) - 1
        taken = [column for at, column in drawn.values() if at == index]
        fitting = [
            column
            for column in tables[index].columns
            if column not in taken and (sort == "any" or column.kind.is_number == (sort == "number"))
        ]
        if not fitting:
            return None
        drawn[slot] = (index, rng.choice(fitting))
    return drawn


def _pick(rng: random.Random, choices: Choices, profile: Profile) -> tuple[str, str]:
    """A piece of SQL and its word; the base profile knows the first of the words."""
    sql = rng.choice(list(choices))
    return sql, choices[sql][0] if profile == "base" else rng.choice(choices[sql])


class _Values:
    """Values a column could hold, drawn once and read by both the question and the SQL."""

    def __init__(self, rng: random.Random, kind: Kind) -> None:
        self.is_number = kind.is_number
        if kind.range:
            low, high, step = kind.range
            self.value, self.other = map(str, sorted(rng.sample(range(low, high + 1, step), 2)))
        elif kind.pattern:
            self.value, self.other = (_code(rng, kind.pattern) for _ in range(2))
        else:
            self.value, self.other = rng.sample(kind.values, 2)
        self.part = rng.choice(self.value.split(" "))
        self.start = self.value[0]


class _Phrase:
    """A column in a question."""

    def __init__(self, text: str, values: _Values) -> None:
        self._text = text
        self.value, self.other, self.part, self.start = values.value, values.other, values.part, values.start

    def __str__(self) -> str:
        return self._text

    __format__ = object.__format__


class _Identifier:
    """A column in SQL, with the alias of its table in joins."""

    def __init__(self, text: str, bare: str, values: _Values) -> None:
        self._text = text
        self.bare = bare
        quote = "{}" if values.is_number else "'{}'"
        self.value, self.other = quote.format(values.value), quote.format(values.other)
        self.part, self.start = values.part, values.start

    def __str__(self) -> str:
        return self._text

    __format__ = object.__format__


class _Noun:
    """A table in a question: its plural, and `.one` of it."""

    def __init__(self, table: Table) -> None:
        self._plural, self.one = table.plural, table.singular

    def __str__(self) -> str:
        return self._plural

    __format__ = object.__format__


def _code(rng: random.Random, pattern: str) -> str:
    return "".join(rng.choice("ABCDEFGHKLMNPRSTUVWX" if sign == "A" else "0123456789") for sign in pattern)
