"""Other people's text, made safe to show: questions, schemas and answers can hold anything.

HTML is safe by autoescaping, Markdown by code spans: inside one there are no tags, links, mentions or emphasis.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

JOINERS = "\u200c\u200d"
"""Format characters that words and emoji of many languages need."""


def visible(text: str) -> str:
    """Control characters, lone surrogates and direction overrides written out: NUL, U+202E and their like."""
    return "".join(
        f"\\u{ord(character):04x}"
        if unicodedata.category(character) in ("Cc", "Cf", "Cs") and character not in "\n\t" + JOINERS
        else character
        for character in text.replace("\r\n", "\n")
    )


def cut(text: str, limit: int) -> str:
    """At most `limit` characters, and how many are left out."""
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit:,} more characters)"


class Markdown(str):
    """Markdown that is safe as it is."""

    __slots__ = ()


def code_span(text: str, limit: int = 300) -> Markdown:
    """One line of code whose fence is longer than any run of backticks in it (CommonMark 6.1)."""
    line = visible(cut(" ".join(text.split()), limit)) or "(empty)"
    fence = "`" * (_longest_run(line) + 1)
    space = " " if "`" in (line[0], line[-1]) else ""
    return Markdown(f"{fence}{space}{line}{space}{fence}")


def fenced(code: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks in it."""
    fence = "`" * max(3, _longest_run(code) + 1)
    return f"{fence}{language}\n{code}{fence}\n"


def plain(text: str) -> str:
    """Text that becomes neither HTML nor emphasis nor a table's border; as code it would be safe from mentions too."""
    return re.sub(r"([|<>\[\]`*_~\\#&])", r"\\\1", visible(" ".join(text.split())))


def markdown_table(head: Iterable[str], rows: Iterable[Iterable[str]], *, numbers: bool = False) -> str:
    """A table; cells are plain text unless they are `Markdown`. `numbers` sets all but the first to the right."""
    first = [_cell(text) for text in head]
    rule = ["---", *["---:" if numbers else "---"] * (len(first) - 1)]
    lines = [first, rule, *([_cell(text) for text in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    """A pipe ends a cell even in code, unless an odd number of backslashes comes before it (GFM)."""
    return text.replace(r"\|", r"\ |").replace("|", r"\|") if isinstance(text, Markdown) else plain(text)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)
