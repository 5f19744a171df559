"""What goes into the page by files, and comes out of it as rows."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from tests.serving.api import SINGERS, Running
from tests.serving.pages import EVIL, IN_CHROMIUM, Open

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = IN_CHROMIUM


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
