"""ZenML's dashboard as a user opens it: the real server, over the session's store, in a real Chromium."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from typer.testing import CliRunner

import run
from pipelines import PIPELINES
from tests.training_fixtures import pipeline_settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of ZenML and what it stands on
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

PATIENCE = 120_000
"""Milliseconds; the dashboard lays its graph out in a worker, on a machine that does much else."""


@pytest.fixture(scope="module")
def train_run(zenml_client: Any, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of the train pipeline that another module has left in the session's store; made here if there is none."""
    found = zenml_client.list_pipeline_runs(pipeline="train", status="completed", sort_by="desc:created", size=50)
    whole = [one for one in found.items if set(zenml_client.get_pipeline_run(one.id).steps) == set(STEPS)]
    if not whole:
        workdir = tmp_path_factory.mktemp("shown")
        values = pipeline_settings(tiny_model, workdir, seed=21).model_dump(mode="json")
        config = workdir / "config.yaml"
        config.write_text(yaml.safe_dump(values | {"name": "shown-model", "output_dir": str(workdir / "results")}))
        assert CliRunner().invoke(run.app, ["--pipeline", "train", "--config", str(config)]).exit_code == 0
        whole = zenml_client.list_pipeline_runs(pipeline="train", status="completed", size=1).items
    return zenml_client.get_pipeline_run(whole[0].id)


STEPS = PIPELINES["train"].steps


@pytest.fixture(scope="module")
def address(train_run: Any) -> Iterator[str]:
    """What the command prints, twice: the second call finds the server there."""
    try:
        first, second = (CliRunner().invoke(run.app, ["--pipeline", "dashboard"]) for _ in range(2))
        assert first.exit_code == 0, first.output
        [line] = first.stdout.splitlines()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/projects/default/runs", line)
        assert second.stdout == first.stdout
        yield line
    finally:
        ended = [CliRunner().invoke(run.app, ["--pipeline", "stop-dashboard"]) for _ in range(2)]
    assert [one.stderr.strip() for one in ended] == ["stopped", "nothing runs"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # For this module alone: its event loop stays in this thread while it is there.
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@dataclass
class Shown:
    """The dashboard, and what our own pages in it complained of."""

    page: Page
    faults: list[str] = field(default_factory=list)

    def visualization(self, artifact: str) -> Any:
        """The sheet in which the artifact is drawn, once that has been asked for."""
        self.page.locator(".react-flow__node").get_by_text(artifact, exact=True).click()
        sheet = self.page.get_by_role("dialog")
        sheet.get_by_role("tab", name="Visualization").click()
        sheet.get_by_role("button", name="Load Preview").click()
        return sheet

    def close(self) -> None:
        self.page.keyboard.press("Escape")
        self.page.get_by_role("dialog").wait_for(state="hidden")


@pytest.fixture
def shown(browser: Browser, address: str) -> Iterator[Shown]:
    """With no other machine within reach."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    found, home = Shown(page), address.partition("/projects")[0]
    page.route(lambda url: not url.startswith((home, "data:", "blob:", "about:")), lambda route: route.abort())

    def hear(message: Any) -> None:
        if message.type == "error" and "srcdoc" in message.text + message.location.get("url", ""):
            found.faults.append(message.text)

    page.on("console", hear)
    yield found
    page.close()


def test_a_run_is_found_and_read(shown: Shown, address: str, train_run: Any):
    page = shown.page
    page.goto(address)
    page.get_by_role("link", name=re.compile(re.escape(train_run.name))).first.click()
    page.locator(".react-flow__node").first.wait_for()
    nodes = {text.splitlines()[0] for text in page.locator(".react-flow__node").all_inner_texts()}
    outputs = {name for step in train_run.steps.values() for name in step.outputs}
    assert set(STEPS) <= nodes
    assert outputs <= nodes

    sheet = shown.visualization("verdict")
    frame = sheet.frame_locator("iframe")
    assert re.match(r"Gate (passed|failed)", frame.locator("h1").inner_text())
    assert frame.locator("tbody tr").count() > 0
    shown.close()
    sheet = shown.visualization("contamination_report")
    assert "Of each split, in training too" in sheet.frame_locator("iframe").locator("h1").inner_text()
    shown.close()
    sheet = shown.visualization("data_docs")
    assert "Statistics" in sheet.frame_locator("iframe").locator("body").inner_text()
    shown.close()
    sheet = shown.visualization("training_history")
    assert sheet.frame_locator("iframe").get_by_role("img", name="Loss curve").is_visible()
    shown.close()
    sheet = shown.visualization("evaluation")
    assert "Execution accuracy" in sheet.inner_text()
    assert shown.faults == []


def test_every_artifact_is_drawn_without_scripts(zenml_client: Any, train_run: Any):
    """The dashboard runs none, and says so on the console."""
    from zenml.artifacts.utils import load_artifact_visualization

    for step in train_run.steps.values():
        for versions in step.outputs.values():
            artifact = zenml_client.get_artifact_version(versions[0].id)
            assert artifact.visualizations, artifact.name
            for index in range(len(artifact.visualizations)):
                found = load_artifact_visualization(artifact, index)
                assert not re.search(r"<script|<[^>]* on\w+=", str(found.value), re.IGNORECASE), artifact.name
