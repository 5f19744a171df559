"""Reads the `.sql` fixtures: a `-- schema` block, then cases of a comment line and statements.

`-- what it shows => match` (or mismatch) is followed by two statements, each on a line of its own or more; a comment
without an arrow is followed by whatever its test takes. A comment that stands alone heads a group.

In hostile.sql the arrow is followed by words of the reason for which the text must be refused. What a text file cannot
hold, or nobody would read, is written shorter there: {{text*1000}} is that text 1000 times, {{U+0000}} a character.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FIXTURES = Path(__file__).parents[1] / "fixtures"
CASE = re.compile(r"^-- (?P<title>.+?)(?: => (?P<verdict>match|mismatch))?$")


@dataclass(frozen=True)
class Case:
    """One case; `match` is None where the fixture holds no pairs."""

    title: str
    match: bool | None
    body: str

    @property
    def pair(self) -> tuple[str, str]:
        """Two statements, the first ending with the first line that ends in a semicolon."""
        first, second = re.split(r";\n", self.body, maxsplit=1)
        return first, second


def read_cases(name: str) -> tuple[str, list[Case]]:
    """The schema and the cases of tests/fixtures/<name>.sql."""
    cases = []
    for block in (FIXTURES / f"{name}.sql").read_text("utf-8").strip().split("\n\n"):
        head, _, body = block.partition("\n")
        if not body:
            continue
        found = CASE.match(head)
        assert found, f"{name}.sql: no case starts with {head!r}"
        cases.append(Case(found["title"], found["verdict"] and found["verdict"] == "match", body))
    schema, *rest = cases
    assert schema.title == "schema"
    return schema.body, rest


@dataclass(frozen=True)
class Hostile:
    """A text that must be refused."""

    title: str
    reason: str
    text: str


def read_hostile() -> tuple[str, list[Hostile]]:
    """The schema and the cases of tests/fixtures/hostile.sql, written out."""
    schema, cases = read_cases("hostile")
    hostile = []
    for case in cases:
        title, arrow, reason = case.title.partition(" => ")
        assert arrow, f"hostile.sql: {title!r} gives no reason"
        text = re.sub(r"{{([^{}]+?)\*(\d+)}}", lambda found: found[1] * int(found[2]), case.body)
        text = re.sub(r"{{U\+([0-9A-F]{4})}}", lambda found: chr(int(found[1], 16)), text)
        hostile.append(Hostile(title, reason, text))
    return schema, hostile
