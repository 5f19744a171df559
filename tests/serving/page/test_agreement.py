"""What the page's scripts and the server must agree on."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, get_args

import pytest

from tests.serving.api import Running
from tests.serving.pages import IN_CHROMIUM, WIDE, tabs
from text2sql.serving.cells import to_csv
from text2sql.serving.messages import MAX_CANDIDATES, MAX_QUESTION_CHARS
from text2sql.serving.operations import PAGE
from text2sql.sql.objections import Code
from text2sql.sql.render import DIALECTS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = IN_CHROMIUM


@pytest.fixture(scope="module")
def page(browser: Browser, server: Running) -> Iterator[Page]:
    """One for all of these tests: they ask its scripts, and leave no trace in it."""
    with tabs(browser) as look:
        yield look(server).page


def test_the_page_offers_what_the_server_takes(page: Page):
    offered = page.eval_on_selector_all("#dialect option", "all => all.map(e => e.value)")
    assert set(offered) <= set(DIALECTS)
    assert offered[0] == "sqlite"
    counts = page.eval_on_selector_all("#candidates option", "all => all.map(e => Number(e.value))")
    assert (min(counts), max(counts)) == (1, MAX_CANDIDATES)
    assert int(page.get_attribute("#question", "maxlength") or 0) == MAX_QUESTION_CHARS
    named = page.evaluate("import('./static/answer.js').then(m => m.CHECKS.flatMap(c => c.codes))")
    assert sorted(named) == sorted([*get_args(Code), "not_renderable"])


CELLS: Sequence[str | int | float | None] = (
    *("", None, 1, -2, 1.5, "plain", "=1+1", "+1", "-1.5e3", "-x", "@a", " =a", "\t=a", "\r", "|a", "＝1", "－", "a,b"),
    *(
        'say "no"',
        "two\nlines",
        "\n=a",
        "'=a",
        "'",
        "＠",
        "1-2",
        "-1-2",
        "ünï",
        "=",
        "- 5",
        "+.5",
        "\u00a0=x",
        "\u3000=x",
    ),
)


def test_row_13_csv_of_the_page_is_the_terminals(page: Page):
    for columns, rows in (
        (["=a", "b"], [list(pair) for pair in itertools.pairwise(CELLS)]),
        (["a"], [[c] for c in CELLS]),
    ):
        made = page.evaluate("([c, r]) => import('./static/csv.js').then(m => m.toCsv(c, r))", [columns, rows])
        assert made == to_csv(columns, rows)


QUERIES = (
    WIDE,
    "",
    "SELECT 'it''s' -- why\nFROM t",
    'SELECT "a""b", [c d], `e` FROM t',
    "SELECT '",
    "SELECT /* open",
    "SELECT 1.5e-3, .5, x1 FROM é WHERE \U0001f600 = 'from'",
    "WITH a AS (SELECT 1 FROM b WHERE c GROUP BY d) SELECT * FROM a UNION ALL SELECT 2 FROM another_table",
    "SELECT a FROM b LEFT OUTER JOIN c ON b.id = c.id NATURAL JOIN d WHERE 'x FROM  y WHERE z' = \" GROUP  BY \"",
)


@pytest.mark.parametrize("query", QUERIES)
def test_highlighting_changes_white_space_alone(page: Page, query: str):
    same, shown = page.evaluate(
        """query => import('./static/sql.js').then(m => {
            const text = all => all.map(t => t.text).join('');
            return [text(m.tokens(query)), text(m.laidOut(m.tokens(query)))];
        })""",
        query,
    )
    assert same == query
    assert shown.split() == query.split()
    assert all(quoted in shown for quoted in re.findall(r"'[^']*'|\"[^\"]*\"", query))
    assert ("\nFROM" in shown) == (len(query) > 64 or "\nFROM" in query)


def test_nothing_in_the_page_is_inline_or_from_elsewhere():
    html = (PAGE / "index.html").read_text()
    assert not re.search(r"\son\w+=|\sstyle=|<style|javascript:", html)
    scripts = [path.read_text() for path in PAGE.glob("*.js")]
    assert scripts
    for text in (html, *scripts, (PAGE / "style.css").read_text()):
        assert "innerHTML" not in text
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []
