"""What the page remembers of a visit."""

from __future__ import annotations

from tests.serving.api import SINGERS, Running
from tests.serving.pages import IN_CHROMIUM, Open

pytestmark = IN_CHROMIUM


def test_history_is_kept_recalled_cleared_and_switched_off(server: Running, look: Open):
    seen = look(server)
    page = seen.page
    seen.answered("Who is older than 30?", SINGERS)
    seen.answered("Something hopeless")
    seen.answered("Who is older than 30?")  # again: moves up
    assert page.locator("#history li").count() == 2
    page.fill("#schema", "")
    page.reload()
    page.wait_for_selector(".server.ready")
    page.click("#history li >> nth=0")
    assert page.input_value("#question") == "Who is older than 30?"
    assert page.input_value("#schema") == SINGERS
    assert seen.sql() == "SELECT name FROM singer WHERE age > 30"
    page.uncheck("#keep")
    assert (
        page.evaluate("[localStorage.getItem('text2sql.history'), localStorage.getItem('text2sql.draft')]")
        == [None] * 2
    )
    assert page.locator("#history li").count() == 2  # of this visit
    page.reload()
    assert page.locator("#history li").count() == 0
    page.check("#keep")
    seen.answered("Who is older than 30?", SINGERS)
    page.click("#clear")
    assert page.locator("#history li").count() == 0
    page.reload()
    assert page.locator("#history li").count() == 0


def test_two_tabs_keep_one_history(server: Running, look: Open):
    seen = look(server)
    other = seen.page.context.new_page()
    other.goto(server.url)
    other.wait_for_selector(".server.ready")
    seen.answered("Who is older than 30?", SINGERS)
    other.wait_for_selector("#history li")
    other.fill("#question", "Something hopeless")
    other.fill("#schema", SINGERS)
    other.click("#submit")
    other.wait_for_selector("#answer .facts")
    seen.page.wait_for_selector("#history li >> nth=1")
    seen.page.reload()
    assert seen.page.locator("#history li").count() == 2
    seen.page.click("#clear")
    other.wait_for_selector("#history li", state="detached")
    other.click("#submit")
    other.wait_for_selector("#history li")
    assert other.locator("#history li").count() == 1  # what was cleared does not come back
    seen.page.uncheck("#keep")
    other.wait_for_selector("#keep:not(:checked)")
    assert other.locator("#history li").count() == 1  # of this visit
    other.close()


def test_a_spoilt_or_missing_store_does_no_harm(server: Running, look: Open):
    seen = look(server)
    seen.page.evaluate(
        "localStorage.setItem('text2sql.history', '[1, null, {\"question\": 2}]');"
        "localStorage.setItem('text2sql.draft', '7')"
    )
    seen.page.reload()
    assert seen.answered("Who is older than 30?", SINGERS) == "Passed every check"
    seen.page.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new Error('no'); }})")
    seen.page.reload()
    assert seen.answered("Who is older than 30?", SINGERS) == "Passed every check"
    assert seen.page.locator("#history li").count() == 1
