"""The page, used in a real Chromium over the real API."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import itertools
import re
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest

from tests.serving.api import SINGERS, Running, ScriptedEngine, key_file, running, until
from text2sql.errors import EngineBusy
from text2sql.serving.auth import make_key
from text2sql.serving.cells import to_csv
from text2sql.serving.engine import Chunk, Options
from text2sql.serving.messages import MAX_CANDIDATES, MAX_QUESTION_CHARS
from text2sql.serving.operations import PAGE
from text2sql.sql.objections import Code
from text2sql.sql.render import DIALECTS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DESK, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script><b>bold</b>"
WIDE = "SELECT name, age, id FROM singer WHERE age > 30 AND name LIKE '%a%' ORDER BY age DESC, name LIMIT 10"


@dataclass
class GatedEngine(ScriptedEngine):
    """Sends its answer word by word, each when it is let."""

    let: int = 10_000

    @contextlib.asynccontextmanager
    async def stream(self, prompt: str, options: Options) -> AsyncIterator[AsyncIterator[Chunk]]:
        self._check(prompt, options)

        async def chunks() -> AsyncIterator[Chunk]:
            done = await self._one(prompt, options, 0)
            words = re.findall(r"\S+\s*", done.text)
            for i, word in enumerate(words):
                while self.let <= i:
                    await asyncio.sleep(0.01)
                yield Chunk(word, done if i == len(words) - 1 else None)

        try:
            yield chunks()
        except BaseException:
            self.cancelled += 1
            raise


@dataclass
class Seen:
    """A page, and what left and failed while it was open."""

    page: Page
    requests: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def ask(self, question: str, schema: str | None = None) -> None:
        if schema is not None:
            self.page.fill("#schema", schema)
        self.page.fill("#question", question)
        self.page.keyboard.press("Control+Enter")

    def answered(self, question: str, schema: str | None = None) -> str:
        """The verdict."""
        self.ask(question, schema)
        self.page.wait_for_selector("#answer .facts")
        return self.page.inner_text("#answer .verdict")

    def sql(self) -> str:
        return " ".join(self.page.inner_text("#answer pre.sql >> nth=0").split())

    def is_dark(self) -> bool:
        red, green, blue = (
            int(part)
            for part in re.findall(r"\d+", self.page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]
        )
        return red + green + blue < 200


Open = Callable[..., Seen]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # For this module alone: its event loop stays in this thread while it is there.
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def look(browser: Browser) -> Iterator[Open]:
    """Opens pages; at the end nothing may have left for elsewhere, and nothing failed in them."""
    opened: list[tuple[Seen, str]] = []

    def open_page(server: Running, ready: bool = True, **options: Any) -> Seen:
        page = browser.new_context(**{"viewport": DESK} | options).new_page()
        page.set_default_timeout(20_000)
        seen = Seen(page)
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("pageerror", lambda error: seen.faults.append(str(error)))
        page.on("console", lambda said: seen.faults.append(said.text) if said.type == "error" else None)
        page.goto(server.url)
        if ready:
            page.wait_for_selector(".server.ready")
        opened.append((seen, server.url))
        return seen

    yield open_page
    for seen, url in opened:
        seen.page.context.close()
        assert [found for found in seen.requests if not found.startswith((f"{url}/", f"blob:{url}/"))] == []
        assert [fault for fault in seen.faults if not fault.startswith("Failed to load resource")] == []


@pytest.fixture(scope="module")
def engine() -> GatedEngine:
    return GatedEngine(
        answers={
            "older than 30": "SELECT name FROM singer WHERE age > 30",
            "everything": "SELECT * FROM singer ORDER BY id",
            "a long one": WIDE,
            "best of": ["SELECT nam FROM singer", "SELECT name FROM singer", "SELECT age FROM singer"],
            "misspelt": "SELECT nam FROM singer",
            "hopeless": "DROP TABLE singer",
            "glob": "SELECT name FROM singer WHERE name GLOB 'A*'",
            "quote me": f"SELECT '{EVIL.replace(chr(39), chr(39) * 2)}' AS said FROM singer",
        },
        repairs={"misspelt": "SELECT name FROM singer", "hopeless": "DROP TABLE singer"},
    )


@pytest.fixture(scope="module")
def server(engine: GatedEngine) -> Iterator[Running]:
    with running(engine) as found:
        yield found


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("database") / "singers.sqlite"
    rows = [(1, "Ann", 31), (2, "=HYPERLINK(1)", None), (3, EVIL, 44), *((i, f"n{i}", i) for i in range(4, 150))]
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(SINGERS)
        connection.executemany("INSERT INTO singer VALUES (?, ?, ?)", rows)
    return path


@pytest.fixture(scope="module")
def with_database(engine: GatedEngine, database: Path) -> Iterator[Running]:
    with running(GatedEngine(answers=engine.answers), database=str(database), query_rows=120) as found:
        yield found


# Asking


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


# Files


def drop(page: Page, *files: tuple[str, bytes]) -> None:
    """Let go of files over the page."""
    transfer = page.evaluate_handle(
        """files => {
            const transfer = new DataTransfer();
            for (const [name, bytes] of files) transfer.items.add(new File([new Uint8Array(bytes)], name));
            return transfer;
        }""",
        [[name, list(content)] for name, content in files],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event("#schema-card", event, {"dataTransfer": transfer})


def test_a_csv_file_and_a_database_become_a_schema(server: Running, database: Path, look: Open):
    seen = look(server)
    page = seen.page
    drop(page, ("shops.csv", b"id,town,opened\n1,Graz,2020-01-31\n2,Linz,2021-02-01\n"))
    page.wait_for_selector("#schema-note:has-text('Read 1 table from shops.csv: shops')")
    assert page.input_value("#schema") == "CREATE TABLE shops (id INTEGER, town TEXT, opened DATE);"
    drop(page, ("singers.db", database.read_bytes()))
    page.wait_for_selector("#schema-note:has-text('from singers.db: singer')")
    assert "CREATE TABLE singer" in page.input_value("#schema")
    assert page.inner_text("#schema-count").startswith("1 table ·")
    page.click("#undo")
    assert "CREATE TABLE shops" in page.input_value("#schema")
    page.set_input_files("#file", {"name": "all.sql", "mimeType": "text/plain", "buffer": f"{SINGERS};".encode()})
    page.wait_for_selector("#schema-note:has-text('from all.sql')")
    assert seen.answered("Who is older than 30?") == "Passed every check"
    drop(page, ("a.csv", b"x\n1\n"), ("b.csv", b"y\n1\n"))
    page.wait_for_selector("#schema-note:has-text('Read 2 tables from 2 files: a, b')")


def test_a_file_that_cannot_be_read_leaves_the_schema(server: Running, look: Open):
    page = look(server).page
    page.fill("#schema", SINGERS)
    drop(page, (f"{EVIL}.sqlite", b"SQLite format 3\0 and then nothing"))
    page.wait_for_selector("#schema-note.no")
    assert "<img" in page.inner_text("#schema-note")
    assert page.input_value("#schema") == SINGERS


# A database


def test_row_13_rows_are_shown_and_saved_without_formulas(with_database: Running, look: Open):
    seen = look(with_database)
    seen.page.wait_for_selector("#execute-label", state="visible")
    assert seen.page.input_value("#schema").startswith("CREATE TABLE singer")
    seen.answered("everything")
    assert "The first 120 rows" in seen.page.inner_text(".result")
    rows = seen.page.locator(".result tbody tr")
    assert rows.count() == 100
    seen.page.click("text=Show all 120")
    assert rows.count() == 120
    assert seen.page.inner_text(".result td.null") == "NULL"
    with seen.page.expect_download() as saved:
        seen.page.click("text=Download CSV")
    text = saved.value.path().read_text(encoding="utf-8-sig")
    found = list(csv.reader(io.StringIO(text, newline="")))
    assert found[0] == ["id", "name", "age"]
    assert found[2] == ["2", "'=HYPERLINK(1)", ""]
    assert found[3] == ["3", EVIL, "44"]
    assert len(found) == 121


def test_without_running_there_are_no_rows(with_database: Running, look: Open):
    seen = look(with_database)
    seen.page.wait_for_selector("#execute-label", state="visible")
    seen.page.uncheck("#execute")
    seen.answered("everything")
    assert seen.page.locator(".result").count() == 0
    assert seen.page.locator(".checks li").count() == 4


# Hostile text


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


# What is remembered


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


# Errors


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


# How it looks


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
def test_nothing_is_wider_than_the_screen(with_database: Running, look: Open, scheme: str, viewport: dict[str, int]):
    seen = look(with_database, viewport=viewport, color_scheme=scheme)

    def fits() -> bool:
        return bool(seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth"))

    assert seen.is_dark() == (scheme == "dark")
    assert fits()
    seen.answered("everything " + "long" * 200)
    assert fits()
    seen.page.fill("#schema", SINGERS.replace("name", "n" * 300))
    seen.answered("hopeless")
    assert fits()
    seen.page.reload()
    seen.page.wait_for_selector("#history li")
    assert fits()


def test_motion_is_spared(server: Running, engine: GatedEngine, look: Open):
    for wish, moves in (("reduce", False), ("no-preference", True)):
        seen = look(server, reduced_motion=wish)
        engine.let = 1
        try:
            seen.ask("Who is older than 30?", SINGERS)
            seen.page.wait_for_selector(".spinner")
            name = seen.page.evaluate("getComputedStyle(document.querySelector('.spinner')).animationName")
        finally:
            engine.let = 10_000
        assert (name != "none") == moves


# What the page and the server must agree on


def test_the_page_offers_what_the_server_takes(server: Running, look: Open):
    page = look(server).page
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


def test_row_13_csv_of_the_page_is_the_terminals(server: Running, look: Open):
    page = look(server).page
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
def test_highlighting_changes_white_space_alone(server: Running, look: Open, query: str):
    page = look(server).page
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
