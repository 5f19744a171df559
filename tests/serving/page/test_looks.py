"""The page on a phone and a desk, in the light and in the dark, and with motion spared."""

from __future__ import annotations

import pytest

from tests.serving.api import SINGERS, Running
from tests.serving.pages import DESK, IN_CHROMIUM, PHONE, GatedEngine, Open

pytestmark = IN_CHROMIUM


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
def test_nothing_is_wider_than_the_screen(with_database: Running, look: Open, scheme: str, viewport: dict[str, int]):
    seen = look(with_database, viewport=viewport, color_scheme=scheme)
    seen.page.wait_for_selector("#execute-label", state="visible")  # the database's schema has come

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
