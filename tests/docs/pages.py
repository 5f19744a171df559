"""The Markdown pages of the project as the tests read them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

PROJECT = Path(__file__).parents[2]
_PARSER = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Fence:
    """A fenced block: what stands behind its ```, its lines, and where it begins."""

    info: str
    text: str
    line: int


def pages() -> list[Path]:
    """Every Markdown page that git knows or would add, as `docs/data.md`."""
    asked = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    run = subprocess.run(asked, cwd=PROJECT, capture_output=True, text=True, check=False)
    found = run.stdout.split() if run.returncode == 0 else [f"docs/{p.name}" for p in (PROJECT / "docs").glob("*.md")]
    return [Path(name) for name in sorted(set(found)) if (PROJECT / name).is_file()]


def tokens(page: Path) -> Iterator[Token]:
    """All tokens of a page, those within lines too."""
    for token in _PARSER.parse((PROJECT / page).read_text("utf-8")):
        yield token
        yield from token.children or ()


def fences(page: Path) -> list[Fence]:
    return [Fence(t.info.strip(), t.content, (t.map or [0])[0] + 1) for t in tokens(page) if t.type == "fence"]


def code_spans(page: Path) -> list[str]:
    return [token.content for token in tokens(page) if token.type == "code_inline"]


def links(page: Path) -> list[str]:
    """Where links and pictures lead, as written."""
    found = [
        token.attrGet("href") or token.attrGet("src") for token in tokens(page) if token.type in ("link_open", "image")
    ]
    return [str(target) for target in found if target]


def table_cells(page: Path) -> list[str]:
    """The first cell of every row of every table, heads left out, as written."""
    found, first, body = [], False, False
    for token in tokens(page):
        body = token.type == "tbody_open" or (body and token.type != "tbody_close")
        first = token.type == "tr_open" or (first and token.type != "td_close")
        if body and first and token.type == "inline":
            found.append(token.content)
    return found


def anchors(page: Path) -> set[str]:
    """What can stand behind # in a link to the page: GitHub's slugs of its headings."""
    found: set[str] = set()
    heading = False
    for token in tokens(page):
        if heading and token.type == "inline":
            slug = re.sub(r"[^\w\- ]", "", "".join(t.content for t in token.children or ()).lower()).replace(" ", "-")
            numbered = (f"{slug}-{number}" for number in range(1, 100))
            found.add(next(name for name in (slug, *numbered) if name not in found))
        heading = token.type == "heading_open"
    return found
