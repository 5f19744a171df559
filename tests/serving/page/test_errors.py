"""What the page says when the server does not answer."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

from tests.serving.api import SINGERS, Running, ScriptedEngine, key_file, running
from tests.serving.pages import IN_CHROMIUM, GatedEngine, Open
from text2sql.errors import EngineBusy
from text2sql.serving.auth import make_key

pytestmark = IN_CHROMIUM


def test_a_key_is_asked_for_and_kept_for_this_tab(engine: GatedEngine, tmp_path: Path, look: Open):
    text, key = make_key("ann")
    with running(GatedEngine(answers=engine.answers), api_keys=key_file(tmp_path, key.line())) as server:
        seen = look(server)
        page = seen.page
        seen.ask("Who is older than 30?", SINGERS)
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", "t2s_wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-words.no:has-text('does not know this key')")
        page.fill("#key", "t2s_1f2e3d\u2026")  # no header can hold it
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-dialog[open]")
        assert page.is_hidden("#problem")
        page.fill("#key", f" {text}\n")
        page.keyboard.press("Enter")
        page.wait_for_selector("#answer .facts")
        assert seen.sql() == "SELECT name FROM singer WHERE age > 30"
        assert text in page.evaluate("sessionStorage.getItem('text2sql.key')")
        assert text not in page.evaluate("JSON.stringify(localStorage)")
        assert all(text not in url for url in seen.requests)
        page.reload()
        assert seen.answered("Who is older than 30?") == "Passed every check"
        page.click("#key-button")
        page.click("#key-forget")
        seen.ask("Who is older than 30?")
        page.wait_for_selector("#key-dialog[open]")
        page.keyboard.press("Escape")
        assert page.locator("#key-dialog").is_hidden()


def test_opening_the_page_leaves_the_console_empty(with_database: Running, tmp_path: Path, look: Open):
    """Nothing is asked for that is not there: a database's schema only of a server with one, and of whom it knows."""
    keys = key_file(tmp_path, make_key("ann")[1].line())
    with running(ScriptedEngine()) as plain, running(ScriptedEngine(), api_keys=keys, database="x.db") as keyed:
        for server in (plain, keyed, with_database):
            seen = look(server)
            seen.page.wait_for_load_state("networkidle")
            assert seen.faults == []
            assert seen.page.is_visible("#key-button") == (server is keyed)
            assert any(url.endswith("/schema") for url in seen.requests) == (server is with_database)


def test_a_busy_server_is_asked_again_after_the_wait(server: Running, engine: GatedEngine, look: Open):
    seen = look(server)
    engine.failure = EngineBusy("64 questions wait already", retry_after=2)
    try:
        seen.ask("Who is older than 30?", SINGERS)
        seen.page.wait_for_selector("#problem h2:has-text('The server is busy')")
    finally:
        engine.failure = None
    assert "The queue is full; ask again later." in seen.page.inner_text("#problem")
    assert re.search(r"in [12] s", seen.page.inner_text("#problem"))
    again = seen.page.locator("#problem button")
    assert again.is_disabled()
    seen.page.wait_for_selector("#problem button:enabled")
    again.click()
    seen.page.wait_for_selector("#answer .facts")
    assert seen.page.locator("#problem").is_hidden()


def test_the_rate_says_how_long_to_wait(look: Open):
    with running(ScriptedEngine(), rate_limit="1/hour") as server:
        seen = look(server)
        seen.answered("How many?", SINGERS)
        seen.ask("And now?")
        seen.page.wait_for_selector("#problem h2:has-text('That was a lot of questions')")
        assert re.search(r"in (59|60) min", seen.page.inner_text("#problem"))


@dataclass
class SlowToStart(ScriptedEngine):
    ready: bool = False

    async def start(self) -> None:
        while not self.ready:
            await asyncio.sleep(0.01)
        await super().start()


def test_a_model_that_is_being_loaded_is_waited_for(look: Open):
    slow = SlowToStart()
    with running(slow, wait=False) as server:
        seen = look(server, ready=False)
        seen.page.wait_for_selector("#model:has-text('The model is being loaded')")
        seen.ask("How many?", SINGERS)
        seen.page.wait_for_selector("#problem h2:has-text('The model is not ready')")
        assert seen.page.locator("#problem button").is_disabled()
        slow.ready = True
        seen.page.wait_for_selector(".server.ready")
        assert seen.answered("How many?") == "Passed every check"


def test_no_answer_in_time(look: Open):
    with running(ScriptedEngine(seconds=30), request_timeout=0.2) as server:
        seen = look(server)
        seen.ask("How many?", SINGERS)
        seen.page.wait_for_selector("#problem h2:has-text('No answer came in time')")
        assert "try again later" in seen.page.inner_text("#problem")


def test_a_server_that_is_gone(engine: GatedEngine, look: Open):
    with running(GatedEngine(answers=engine.answers)) as server:
        seen = look(server)
    seen.ask("Who is older than 30?", SINGERS)
    seen.page.wait_for_selector("#problem h2:has-text('The server cannot be reached')")
