"""The pictures of the README, taken from what a run has left: its report, the page that serves it, the dashboard.

make train && make screenshots
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

from run import QUIET  # noqa: E402
from text2sql.serving.supervisor import free_port  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SCHEMA = "CREATE TABLE singer (name TEXT, country TEXT, age INTEGER)"
QUESTION = "What is the average age of singers whose country is France?"
VIEWPORT = {"width": 1120, "height": 780}
MAX_BYTES = 150_000
PATIENCE = 180_000
"""Milliseconds."""
NOTHING = '<svg xmlns="http://www.w3.org/2000/svg"/>'


def main() -> None:
    """Take them all."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--results", type=Path, default=PROJECT / "results", help="what the run has written")
    arguments.add_argument("--output", type=Path, default=PROJECT / "docs" / "images")
    given = arguments.parse_args()
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("error: no chromium and no google-chrome on this machine; install one of them")
    if not (given.results / "report.html").is_file():
        sys.exit(f"error: {given.results} has no report.html; make train first, or name another folder with --results")
    from playwright.sync_api import sync_playwright

    given.output.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        report(chromium, given.results, given.output)
        with serving(given.results / "merged_model") as address:
            serving_page(chromium, address, given.output)
        with zenml_dashboard() as address:
            zenml_pages(chromium, address, given.output)


def report(browser: Browser, results: Path, folder: Path) -> None:
    """Its top, and its examples."""
    page = opened(browser)
    page.goto((results / "report.html").absolute().as_uri())
    save(page, folder / "report.png")
    page.evaluate("scrollTo(0, document.getElementById('examples-heading').getBoundingClientRect().top + scrollY - 24)")
    save(page, folder / "report-examples.png")
    page.close()


@contextlib.contextmanager
def serving(model: Path) -> Iterator[str]:
    """A server of the merged model."""
    port = free_port()
    command = [sys.executable, "-m", "text2sql", "serve", "--model", str(model), "--port", str(port)]
    with subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.DEVNULL) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until_ready(f"{address}/readyz", server)
            yield address
        finally:
            server.terminate()


def wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    """Until it says so, or ends."""
    deadline = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, trust_env=False).is_success:
                return
        time.sleep(0.3)
    sys.exit(f"error: {' '.join(server.args)} does not serve")  # type: ignore[arg-type]


def serving_page(browser: Browser, address: str, folder: Path) -> None:
    """A question, answered."""
    page = opened(browser)
    page.goto(address)
    page.fill("#schema", SCHEMA)
    page.fill("#question", QUESTION)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#answer .facts")
    save(page, folder / "page.png")
    page.close()


@contextlib.contextmanager
def zenml_dashboard() -> Iterator[str]:
    """The list of runs; a server that was there before stays."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from zenml.utils.server_utils import get_local_server

    from pipelines.dashboard import runs_page, stop

    before = get_local_server()
    address, is_ours = runs_page()
    try:
        yield address
    finally:
        if is_ours and before is None:
            stop()


def zenml_pages(browser: Browser, address: str, folder: Path) -> None:
    """The newest training as a graph, beside its figures, and what the artifact of its evaluation shows."""
    home = address.partition("/projects")[0]
    page = opened(browser)
    page.route(  # its icons come from other machines
        lambda url: not url.startswith((home, "data:", "blob:", "about:")),
        lambda route: route.fulfill(content_type="image/svg+xml", body=NOTHING),
    )
    page.goto(address)
    run = page.get_by_role("link", name=re.compile(r"-train-\d{4}_")).first
    run.wait_for()
    page.get_by_role("button", name="Close").or_(page.locator("button:has(svg)")).first.click()  # a banner
    run.click()
    page.locator(".react-flow__node").first.wait_for()
    page.get_by_role("tab", name="Metadata").click()
    page.get_by_role("button", name="Tuned").click()
    save(page, folder / "zenml-run.png")
    page.locator(".react-flow__node").get_by_text("evaluation", exact=True).click()
    sheet = page.get_by_role("dialog")
    sheet.get_by_role("tab", name="Visualization").click()
    sheet.get_by_role("button", name="Load Preview").click()
    sheet.get_by_role("button", name="Load Preview").wait_for(state="hidden")
    save(page, folder / "zenml-evaluation.png")
    page.close()


def opened(browser: Browser) -> Page:
    """An empty page of the usual size."""
    page = browser.new_page(viewport=VIEWPORT, color_scheme="light", reduced_motion="reduce")
    page.set_default_timeout(PATIENCE)
    return page


def save(page: Page, path: Path) -> None:
    """As it stands now, if that is small enough to be kept with the sources."""
    page.wait_for_timeout(1500)  # fonts, and what moves into place
    page.screenshot(path=path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        sys.exit(f"error: {path} has {size:,} bytes, more than {MAX_BYTES:,}; show less, or give it a palette by hand")
    print(f"{path} {size:,} bytes")


if __name__ == "__main__":
    main()
