"""Links between pages lead somewhere."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import PROJECT, anchors, links, pages

INDEX = Path("docs/README.md")


@pytest.mark.parametrize("page", pages(), ids=str)
def test_every_link_leads_to_a_file_and_a_heading(page: Path):
    assert [target for target in links(page) if not leads_somewhere(page, target)] == []


def leads_somewhere(page: Path, target: str) -> bool:
    """Whether a link is to another site, or to a file of the project that has the heading behind its #."""
    parts = urlsplit(target)
    if parts.scheme:
        return True
    path = (PROJECT / page.parent / unquote(parts.path)).resolve() if parts.path else PROJECT / page
    if not path.exists() or not path.is_relative_to(PROJECT):
        return False
    return not parts.fragment or parts.fragment in anchors(path.relative_to(PROJECT))


def test_every_page_of_docs_is_in_the_index():
    named = {(INDEX.parent / urlsplit(target).path).as_posix() for target in links(INDEX)}
    assert {str(page) for page in pages() if page.parent == INDEX.parent} - {str(INDEX)} <= named


def test_an_anchor_is_what_github_makes_of_a_heading(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# A `code` word, two & more\n\n## Same\n\n## Same\n\n```\n# no heading\n```\n", "utf-8")
    assert anchors(page) == {"a-code-word-two--more", "same", "same-1"}
