"""HTML in questions, queries, cells and names is text to the page."""

from __future__ import annotations

from tests.serving.api import Running
from tests.serving.pages import EVIL, IN_CHROMIUM, Open

pytestmark = IN_CHROMIUM


def test_row_12_html_stays_text_wherever_it_comes_from(with_database: Running, look: Open):
    seen = look(with_database)
    page = seen.page
    page.wait_for_selector("#execute-label", state="visible")
    title = page.title()
    seen.answered(f"everything {EVIL}")  # a cell
    assert EVIL in page.locator(".result tbody tr >> nth=2").inner_text()
    seen.answered(f"quote me {EVIL}")  # the query, a cell
    assert "<script>" in seen.sql()
    assert page.inner_text(".result td >> nth=0") == EVIL
    page.fill("#schema", f'CREATE TABLE singer ("{EVIL.replace(chr(34), chr(34) * 2)}" TEXT)')
    assert seen.answered(f"everything {EVIL}") in ("Passed every check", "Did not pass the checks")
    page.reload()
    page.wait_for_selector("#history li >> nth=2")  # the history
    assert EVIL in page.inner_text("#history .asked >> nth=1")
    page.click("#history button >> nth=1")
    assert page.evaluate("document.querySelectorAll('main img, main script, main b').length") == 0
    assert page.title() == title


def test_a_script_that_slips_in_is_stopped_by_the_policy(server: Running, look: Open):
    seen = look(server)
    seen.page.evaluate(
        "t => { const s = document.createElement('script'); s.textContent = t; document.body.append(s); "
        "document.querySelector('footer, main').insertAdjacentHTML('beforeend', '<p style=\"color: red\">x</p>'); }",
        "document.title = 'owned'",
    )
    assert seen.page.title() == "text2sql"
    stopped = [fault for fault in seen.faults if "Content Security Policy" in fault]
    assert len(stopped) == 2
    seen.faults.clear()
