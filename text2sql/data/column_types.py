"""What a query asks of its columns' types: where it contradicts a declaration, and where it contradicts itself."""

from __future__ import annotations

import re

from text2sql.sql.hints import Hints, Key
from text2sql.sql.schema import Column, Schema

_NUMBER = re.compile(r"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*")
_TEMPORAL_NAME = re.compile(r"(?:date|time)s?(?:_|$)|timestamp", re.IGNORECASE)
_PATTERNS = ("like", "glob")
_UNKNOWN = ""


class Uses:
    """What the uses of a column in a query ask its type to be."""

    def __init__(self, hints: Hints) -> None:
        self.hints = hints
        self.pairs = [pair for pair in hints.links if pair not in hints.stacked]
        """Columns that are compared with each other."""
        self._beside: dict[Key, set[Key]] = {}
        for one, other in self.pairs:
            self._beside.setdefault(one, set()).add(other)
            self._beside.setdefault(other, set()).add(one)

    def linked(self, key: Key) -> set[Key]:
        """The column and all that it is compared with, directly or through others."""
        found, new = {key}, [key]
        while new:
            more = self._beside.get(new.pop(), set()) - found
            found |= more
            new += more
        return found

    def asked_type(self, key: Key) -> str | None:
        """What the uses of a column, and of those compared with it, ask for; None where they ask for none, or two."""
        asked = {type_ for other in self.linked(key) for type_ in self._asked_of(other)}
        if asked == {"INTEGER", "REAL"}:
            return "REAL"
        return asked.pop() if len(asked) == 1 and _UNKNOWN not in asked else None

    def _asked_of(self, key: Key) -> set[str]:
        conditions = self.hints.conditions.get(key, [])
        numbers = [value for _, value in conditions if not isinstance(value, str)]
        if key in self.hints.temporal or (key in self.hints.numeric and not numbers and _TEMPORAL_NAME.search(key[1])):
            return {_UNKNOWN}  # the difference of two dates does not make them numbers
        asked = set()
        if any(_is_word(value) for op, value in conditions if op not in _PATTERNS):
            asked.add("VARCHAR")
        if key in self.hints.numeric:
            asked.add("REAL" if any(isinstance(value, float) for value in numbers) else "INTEGER")
            if any(op in _PATTERNS for op, _ in conditions):
                asked.add("VARCHAR")
        return asked


def contradicted(schema: Schema, uses: Uses) -> dict[Key, str]:
    """Columns whose every use asks for another type, and that type."""
    types: dict[Key, str] = {}
    for table in schema.tables:
        for column in table.columns:
            key = (table.name.lower(), column.name.lower())
            asked = uses.asked_type(key)
            if asked and sort_of(column) == ("number" if asked == "VARCHAR" else "text"):
                types[key] = asked
    return types


def conflicts(schema: Schema, uses: Uses) -> tuple[str, ...]:
    """Columns that are compared with the other sort of value; a text that is a number, and LIKE, are none."""
    found: dict[str, None] = {}
    sorts: dict[Key, str] = {}
    for table in schema.tables:
        for column in table.columns:
            key = (table.name.lower(), column.name.lower())
            compared = [value for op, value in uses.hints.conditions.get(key, []) if op not in _PATTERNS]
            sorts[key] = sort_of(column)
            if (sorts[key] == "number" and any(map(_is_word, compared))) or (
                sorts[key] == "text" and any(not isinstance(value, str) for value in compared)
            ):
                found[f"{table.name}.{column.name}"] = None
    for pair in uses.pairs:
        if {sorts.get(key) for key in pair} == {"number", "text"}:
            found |= dict.fromkeys(".".join(key) for key in pair)
    return tuple(found)


def sort_of(column: Column) -> str:
    """number, text, or "" for a type that holds both: a date is written as either, and no type takes all."""
    if not column.type or column.temporal:
        return ""
    return "number" if column.numeric else "text"


def _is_word(value: object) -> bool:
    return isinstance(value, str) and not _NUMBER.fullmatch(value)
