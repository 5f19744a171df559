"""Pools of values for columns: the literals that a query compares them with, near misses of these, and neutral ones."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from datetime import date, datetime, timedelta

from text2sql.sql.hints import Value

WORDS = re.findall(
    r"\w+",
    """
    amber birch cedar delta ember fjord grove hazel indigo jasper kelp lilac maple nectar ochre pearl quartz raven
    slate topaz umber violet willow xenon yarrow zephyr acorn basil coral dune elder flint ginger heron iris
    juniper koala lotus mango nutmeg olive plum quince rose saffron thyme urchin velvet walnut zinnia
    """,
)
_DIGITS = re.compile(r"\d+(?!.*\d)")  # the last number of a text
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_LARGEST = 2**63 - 1
"""SQLite's largest integer; what is larger is a REAL to it."""


def numbers(
    rng: random.Random, conditions: Iterable[tuple[str, Value]], size: int, beside: bool = True
) -> tuple[list[Value], list[Value]]:
    """At least `size` numbers around the literals, and those of them that sit on or near a literal.

    With `beside`, the next numbers above and below a literal are among them. Without, they are left out: else the least
    number above 30 would be 31 in every database.
    """
    literals = sorted({value for _, value in conditions if not isinstance(value, str)})
    near: list[Value] = []
    left_out: set[Value] = set()
    for value in literals:
        step: int | float = 1
        if "e" in repr(value):
            step = abs(value) / 10
        elif isinstance(value, float) and not value.is_integer():
            step = 10.0 ** -len(repr(value).rpartition(".")[2])
        near += [value, _tidy(value - step), _tidy(value + step)] if beside else [value]
        near += [_tidy(value + rng.randint(2, 9) * step), _tidy(value - rng.randint(2, 9) * step)]
        left_out |= set() if beside else {_tidy(value - step), _tidy(value + step)}
    low, high = (int(literals[0]) - size, int(literals[-1]) + size) if literals else (1, 3 * size + 20)
    low = min(max(low, -_LARGEST), _LARGEST - 2 * size)
    high = min(high, _LARGEST)
    pool = list(dict.fromkeys(near))
    near = list(pool)
    taken = set(pool) | left_out
    while len(pool) < size:
        value = rng.randint(low, max(high, low + 2 * size))
        if value not in taken:
            taken.add(value)
            pool.append(value)
    return pool, near


def texts(rng: random.Random, conditions: Iterable[tuple[str, Value]], size: int) -> tuple[list[Value], list[Value]]:
    """At least `size` texts, and those of them that are made from a literal: itself, and what nearly is it."""
    near: list[Value] = []
    for operator, value in conditions:
        if operator in ("like", "glob") and isinstance(value, str):
            near += _like(rng, value.replace("*", "%").replace("?", "_") if operator == "glob" else value)
        else:
            near += _beside(value)
    near = list(dict.fromkeys(near))
    return list(dict.fromkeys([*near, *rng.sample(WORDS, min(size, len(WORDS)))])), near


def dates(rng: random.Random, conditions: Iterable[tuple[str, Value]], size: int) -> tuple[list[Value], list[Value]]:
    """At least `size` ISO dates, most of them in the years that the literals name."""
    literals = [str(value) for _, value in conditions]
    years = [int(year) for text in literals for year in re.findall(r"\b(?:1[5-9]|20)\d\d\b", text)] or [2010, 2018]
    near: list[Value] = list(dict.fromkeys(day for text in literals for day in _beside_date(text)))
    pool = dict.fromkeys(near)
    while len(pool) < size:
        year = rng.choice(years) + rng.randint(-2, 2)
        pool[f"{year:04d}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"] = None
    return list(pool), near


def fresh(rng: random.Random, value: Value) -> Value:
    """Another value of the same kind, for a column that has used up its pool."""
    if isinstance(value, str):
        if _DATE.fullmatch(value):
            return f"{rng.randint(1990, 2024):04d}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
        return f"{rng.choice(WORDS)} {rng.randint(1, 9999)}"
    return rng.randint(1, 9999) if isinstance(value, int) else round(value + rng.uniform(-50, 50), 2)


def satisfies(value: Value, operator: str, literal: Value) -> bool:
    """Whether `value operator literal` holds, numbers sorting below texts as in SQLite."""
    if operator in ("like", "glob"):
        return bool(_pattern(str(literal), operator).fullmatch(str(value)))
    if isinstance(value, str) != isinstance(literal, str):
        left: tuple[bool, Value] = (isinstance(value, str), 0)
        right: tuple[bool, Value] = (isinstance(literal, str), 0)
    else:
        left, right = (False, value), (False, literal)
    return {
        "=": left == right,
        "<>": left != right,
        "<": left < right,
        "<=": left <= right,
        ">": left > right,
        ">=": left >= right,
    }[operator]


def _pattern(pattern: str, operator: str) -> re.Pattern[str]:
    many, one = ("*", "?") if operator == "glob" else ("%", "_")
    parts = [".*" if c == many else "." if c == one else re.escape(c) for c in pattern[:200]]
    return re.compile("".join(parts), re.DOTALL | (re.IGNORECASE if operator == "like" else 0))


def _beside(value: Value) -> list[Value]:
    """A literal and what is nearly it: other case, a character more, one less, the next number in it."""
    if not isinstance(value, str):
        return [value, value - 1, value + 1]
    text = value[:500]
    near = [value, text.swapcase(), f"{text}a", text[:-1]]
    number = _DIGITS.search(text)
    if number:
        for step in (1, -1):
            changed = str(max(int(number.group()) + step, 0)).zfill(len(number.group()))
            near.append(text[: number.start()] + changed + text[number.end() :])
    return [text for text in dict.fromkeys(near) if text or not value]


def _beside_date(text: str) -> list[str]:
    """A date, with or without a time, and what is nearly it, the days around it too; only what a calendar has.

    On 2010-12-32 two ways to ask for the year 2010 would differ.
    """
    found = _DATE.search(text)
    if not found:
        return []
    day = found.group()
    text = text if _is_date(text) else day  # '2010-01-01%'
    near = [text, *map(str, _beside(text))]
    for step in (1, -1):
        try:
            near.append(text.replace(day, str(date.fromisoformat(day) + timedelta(days=step))))
        except (ValueError, OverflowError):  # no date, or the last of all
            continue
    return [day for day in dict.fromkeys(near) if _is_date(day)]


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _like(rng: random.Random, pattern: str) -> list[Value]:
    """Texts that match a LIKE pattern, in several ways, and texts that just do not."""
    pattern = pattern[:200]

    def filled(word: str) -> str:
        return "".join(word if c == "%" else rng.choice("aeiou") if c == "_" else c for c in pattern)

    core = pattern.strip("%").replace("_", "e").replace("%", " ")
    word = rng.choice(WORDS)
    shorter = core[:-1] if len(core) > 1 else word
    near = [filled(""), filled(word), filled("o").swapcase(), f"{core}{word}", f"{word}{core}", core, shorter]
    near.append(f"{word}{shorter}")
    return [text for text in dict.fromkeys(near) if text]


def _tidy(value: int | float) -> int | float:
    """Without the noise of binary fractions: 0.1 + 0.2 is 0.3 here; and as SQLite can hold it."""
    if isinstance(value, int):
        return value if abs(value) <= _LARGEST else float(value)
    return round(value, 9)
