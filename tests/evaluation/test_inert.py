from __future__ import annotations

import re

import pytest

from text2sql.evaluation.inert import Markdown, code_span, cut, fenced, markdown_table, plain, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb\x00c\ud800d", "a\\u202eb\\u0000c\\ud800d"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("windows\r\nline", "windows\nline"),
        ("👩\u200d🚀 می\u200cخواهم", "👩\u200d🚀 می\u200cخواهم"),
    ],
)
def test_what_acts_unseen_is_written_out(text: str, shown: str):
    assert visible(text) == shown


def test_cut_says_how_much_is_left_out():
    assert cut("abc", 3) == "abc"
    assert cut("a" * 5000, 3) == "aaa … (4,997 more characters)"


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("SELECT 1", "`SELECT 1`"),
        ("two\n\nlines", "`two lines`"),
        ("a `b` c", "``a `b` c``"),
        ("`", "`` ` ``"),
        ("```sql", "```` ```sql ````"),
        ("", "`(empty)`"),
        ("<b> @user https://x", "`<b> @user https://x`"),
    ],
)
def test_code_spans_end_where_they_should(text: str, span: str):
    assert code_span(text) == span


def test_a_fence_is_longer_than_any_in_the_code():
    assert fenced("a\n````\n", "sql") == "`````sql\na\n````\n`````\n"


def test_plain_text_is_no_markup():
    assert re.sub(r"\\.", "", plain("a|b <i> [x](y) *_~# `c` &amp; \\")) == "ab i x(y)  c amp; "


def test_cells_are_plain_unless_they_are_markdown_and_none_ends_early():
    assert markdown_table(("a", "b"), [("x|y", code_span("p|q")), ("<b>", Markdown("[1, 2]"))], numbers=True) == (
        "| a | b |\n| --- | ---: |\n| x\\|y | `p\\|q` |\n| \\<b\\> | [1, 2] |\n"
    )


@pytest.mark.parametrize("text", [r"a\|b", r"a\\|b", "|", "\\"])
def test_no_backslash_frees_a_pipe(text: str):
    for cell in (text, code_span(text)):
        *_, line = markdown_table(("a",), [(cell,)]).splitlines()
        inner = line.removeprefix("| ").removesuffix(" |")
        assert not [run for run in re.findall(r"(\\*)\|", inner) if len(run) % 2 == 0], line
