"""A Chromium and a server for all tests of the page: a package of its own, so that both end with it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.serving.api import SINGERS, Running, running
from tests.serving.pages import CHROMIUM, EVIL, WIDE, GatedEngine, Open, tabs

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    # Its event loop stays in this thread while it is there: no longer than this package's tests last.
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def look(browser: Browser) -> Iterator[Open]:
    """Opens pages for one test."""
    with tabs(browser) as found:
        yield found


@pytest.fixture(scope="package")
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


@pytest.fixture(scope="package")
def server(engine: GatedEngine) -> Iterator[Running]:
    with running(engine) as found:
        yield found


@pytest.fixture(scope="package")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("database") / "singers.sqlite"
    rows = [(1, "Ann", 31), (2, "=HYPERLINK(1)", None), (3, EVIL, 44), *((i, f"n{i}", i) for i in range(4, 150))]
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(SINGERS)
        connection.executemany("INSERT INTO singer VALUES (?, ?, ?)", rows)
    return path


@pytest.fixture(scope="package")
def with_database(engine: GatedEngine, database: Path) -> Iterator[Running]:
    with running(GatedEngine(answers=engine.answers), database=str(database), query_rows=120) as found:
        yield found
