"""What the tests of the page share: a Chromium's tab that is watched, and an engine that answers word by word."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.serving.api import Running, ScriptedEngine
from text2sql.serving.engine import Chunk, Options

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
IN_CHROMIUM = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]

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


@contextlib.contextmanager
def tabs(browser: Browser) -> Iterator[Open]:
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
