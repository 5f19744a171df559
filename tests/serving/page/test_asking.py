"""The page, used in a real Chromium over the real API: questions and answers."""

from __future__ import annotations

import re
from pathlib import Path

from tests.serving.api import SINGERS, Running, running, until
from tests.serving.pages import IN_CHROMIUM, WIDE, GatedEngine, Open

pytestmark = IN_CHROMIUM


def test_the_keyboard_is_enough(server: Running, look: Open):
    page = look(server).page
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.type("Who is older than 30?")
    while page.evaluate("document.activeElement.id") != "schema":
        page.keyboard.press("Shift+Tab")
    page.keyboard.insert_text(SINGERS)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#answer .facts")
    assert page.inner_text("#answer .verdict") == "Passed every check"
    visited: list[str] = []
    outlines = set()
    page.focus(".skip")
    while visited[-1:] != ["skip"]:
        page.keyboard.press("Tab")
        name = page.evaluate(
            "(e => e === document.body ? '' : e.id || e.className || e.tagName)(document.activeElement)"
        )
        visited.append(name)
        if name:  # none: the browser's own controls
            outlines.add(page.evaluate("getComputedStyle(document.activeElement).outlineStyle"))
        assert len(visited) < 60
    assert outlines == {"solid"}
    order = ["schema", "choose", "question", "dialect", "candidates", "submit", "copy", "sql", "keep", "clear", "skip"]
    assert [name for name in visited if name in order] == order
    assert "file" not in visited  # its button opens it


def test_what_happens_is_told_to_screen_readers(server: Running, look: Open):
    seen = look(server)
    seen.answered("Who is older than 30?", SINGERS)
    live = seen.page.locator("#live")
    assert live.get_attribute("role") == "status"
    assert live.inner_text() == "Answer: SELECT name FROM singer WHERE age > 30"
    assert seen.page.locator("#problem").get_attribute("role") == "alert"
    for control in seen.page.locator("textarea, select, input, button:visible").all():
        assert control.evaluate("e => (e.labels?.[0] ?? e).textContent.trim() || e.getAttribute('aria-label')")


def test_the_answer_is_shown_as_it_grows(server: Running, engine: GatedEngine, look: Open):
    seen = look(server)
    engine.let = 2
    try:
        seen.ask("Who is older than 30?", SINGERS)
        until(lambda: seen.page.text_content(".growing code") == "SELECT name ")
        assert seen.page.inner_text("#submit-words") == "Stop"
        assert seen.page.locator("#answer .facts").count() == 0
    finally:
        engine.let = 10_000
    seen.page.wait_for_selector("#answer .facts")
    assert seen.sql() == "SELECT name FROM singer WHERE age > 30"


def test_escape_stops_an_answer_for_the_engine_too(server: Running, engine: GatedEngine, look: Open):
    seen, before = look(server), engine.cancelled
    engine.let = 1
    try:
        seen.ask("Who is older than 30?", SINGERS)
        seen.page.wait_for_selector(".growing .sql-keyword")
        seen.page.keyboard.press("Escape")
        seen.page.wait_for_selector("#answer", state="hidden")
        until(lambda: engine.cancelled > before)
    finally:
        engine.let = 10_000
    assert seen.page.inner_text("#submit-words") == "Ask"
    assert seen.page.inner_text("#live") == "Stopped"
    assert seen.answered("Who is older than 30?") == "Passed every check"


def test_what_is_missing_is_said_where_it_is_missing(server: Running, look: Open):
    seen = look(server)
    seen.page.keyboard.press("Control+Enter")
    assert seen.page.inner_text("#question-note") == "Write a question first."
    seen.ask("Who?")
    assert "CREATE TABLE" in seen.page.inner_text("#schema-note")
    assert seen.page.evaluate("document.activeElement.id") == "schema"
    seen.ask("Who?", "this is no schema")
    seen.page.wait_for_selector("#schema-note.no:not(:empty)")
    assert seen.page.get_attribute("#schema", "aria-invalid") == "true"
    seen.page.fill("#schema", SINGERS)
    assert seen.page.get_attribute("#schema", "aria-invalid") is None


def test_an_invalid_answer_says_what_is_wrong(server: Running, look: Open):
    seen = look(server)
    assert seen.answered("Something hopeless", SINGERS) == "Did not pass the checks"
    assert "not_read_only" in seen.page.inner_text("#answer .faults")
    states = seen.page.eval_on_selector_all(
        ".checks li", "all => all.map(e => [e.className, e.innerText.split(':')[0].trim()])"
    )
    assert states[:3] == [["yes", "One SQL query"], ["no", "Only reads"], ["none", "Names are in the schema"]]
    assert seen.answered("Something misspelt") == "Passed every check"
    assert "Asked again once" in seen.page.inner_text("#answer .facts")


def test_dialects_and_candidates(server: Running, engine: GatedEngine, look: Open):
    seen = look(server)
    seen.page.select_option("#dialect", "postgres")
    seen.answered("a long one", SINGERS)
    assert "ILIKE" in seen.sql()
    assert "postgres" in seen.page.inner_text("#answer .facts")
    assert seen.answered("glob") == "Did not pass the checks"
    assert seen.page.inner_text(".checks li.no").startswith("Can be written in this dialect")
    seen.page.select_option("#dialect", "sqlite")
    seen.page.select_option("#candidates", "3")
    assert seen.answered("the best of three") == "Passed every check"
    assert seen.sql() == "SELECT name FROM singer"
    assert "2 different candidates" in seen.page.inner_text(".candidates summary")
    assert seen.page.eval_on_selector_all(".candidates li > p", "all => all.map(e => e.className)") == ["no", "yes"]


def test_the_copy_button_copies_the_query_as_it_is(server: Running, look: Open):
    seen = look(server, permissions=["clipboard-read", "clipboard-write"])
    seen.answered("a long one", SINGERS)
    assert len(seen.page.inner_text("#answer pre.sql").splitlines()) == 5  # a line a clause
    seen.page.click("button.copy")
    seen.page.wait_for_selector("button.copy:has-text('Copied')")
    assert seen.page.evaluate("navigator.clipboard.readText()") == WIDE


def test_a_real_model_answers(tiny_model: Path, look: Open):
    from text2sql.serving.transformers_engine import TransformersEngine

    with running(TransformersEngine(tiny_model), max_new_tokens=12) as server:
        seen = look(server)
        assert seen.page.inner_text("#model") == tiny_model.name
        assert seen.answered("How many ships?", "CREATE TABLE ship (age INTEGER)") in (
            "Did not pass the checks", "No query came", "Passed every check",
        )  # fmt: skip
        assert re.search(r"\d+ tokens", seen.page.inner_text("#answer .facts"))
