"""The page as a parser and as a real browser see it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.evaluation.evaluations import EQUIVALENT, INVALID, RIGHT, WRONG, evaluation
from text2sql.config import GateSection
from text2sql.evaluation.gate import decide
from text2sql.evaluation.report import MAX_TEXT, render_report
from text2sql.evaluation.types import Evaluation, SystemScores, TestRow

VOID = {"meta", "link", "img", "input", "br", "hr", "rect", "line", "circle", "polyline"}
HOSTILE = [
    "</code></pre><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\"><svg onload=document.title='owned'>",
    "{{ 7 * 7 }} {% include 'x' %}",
    "javascript:document.title='owned'",
]


class Page(HTMLParser):
    """Elements in order with their attributes and their own text; complains of tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.stack: list[str] = []
        self.feed(text)
        self.close()
        assert not self.stack, f"never closed: {self.stack}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.stack.pop() == tag, self.getpos()

    def handle_data(self, data):
        if self.stack and data.strip():
            self.texts.setdefault(self.stack[-1], []).append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(judged: Evaluation, gate: GateSection | None = None, **more) -> Page:
    return Page(render_report(judged, decide(judged, gate or GateSection()), **more))


@pytest.fixture
def judged() -> Evaluation:
    return evaluation(
        base=[WRONG, INVALID, RIGHT, INVALID],
        tuned=[RIGHT, EQUIVALENT, WRONG, INVALID],
        constructs=["join", "join", "like", "like"],
    )


def hostile(text: str) -> Evaluation:
    clean = evaluation([INVALID], [INVALID], ["c"])
    bad = replace(INVALID, error=text)
    systems = [SystemScores(scores.name, scores.figures, [text], [bad], 1.0) for scores in clean.systems]
    return Evaluation([TestRow(text, text, text, construct=text)], systems, text, text)


def test_structure_of_the_page(judged: Evaluation):
    html = page(judged, history=[{"step": 1, "loss": 1.0}], facts={"Rows": 8000})
    assert html.texts["h1"] == ["some/base-model"]
    assert html.texts["h2"] == [
        "✓ Gate passed: 4 rules kept",
        "Base beside tuned",
        "Execution accuracy by construct",
        "Loss",
        "Data",
        "Examples",
    ]
    assert html.texts["title"][0] == "some/base-model: Gate passed: 4 rules kept"
    assert html.all("html")[0]["lang"] == "en"
    assert [row["data-change"] for row in html.all("tr") if "data-change" in row] == [
        "fixed",
        "fixed",
        "broken",
        "open",
    ]
    assert [row["data-state"] for row in html.all("tr") if "data-state" in row] == [
        "right",
        "right",
        "wrong",
        "invalid",
    ]


def test_parts_without_material_are_left_out():
    html = page(evaluation([RIGHT], [RIGHT]))
    assert html.texts["h2"] == ["✗ Gate failed: 1 of 4 rules broken", "Base beside tuned", "Examples"]
    assert "kind" not in {select.get("id") for select in html.all("select")}


def test_bars_show_execution_accuracy_by_construct(judged: Evaluation):
    pictures = [picture.get("aria-label") for picture in page(judged).all("svg")]
    assert "join: base 0.0%, tuned 100.0%" in pictures
    assert "like: base 50.0%, tuned 0.0%" in pictures
    widths = [bar["width"] for bar in page(judged).all("rect") if bar.get("class") == "tuned"]
    assert widths == ["50.00%", "25.00%", "75.00%", "90.00%", "88.00%", "100.00%", "0.00%"]


def test_a_broken_rule_is_shown_with_its_reason(judged: Evaluation):
    text = render_report(judged, decide(judged, GateSection(execution_accuracy={"min": 0.9})))
    assert "Execution accuracy 0.500 is below the minimum of 0.900" in text
    assert "gate.execution_accuracy.min" in text


def test_facts_are_shown_as_numbers_lists_and_tables(judged: Evaluation):
    facts = {
        "Rows": 8000,
        "Set aside": {"duplicate": 13},
        "Splits": {"train": {"rows": 6400}, "test": {"rows": 9, "p95": 2}},
    }
    html = page(judged, facts=facts)
    assert "8,000" in html.texts["p"]
    assert {"duplicate", "train", "test"} <= set(html.texts["th"])
    assert {"rows", "p95"} <= set(html.texts["th"])
    assert {"13", "6,400", "9", "2"} <= set(html.texts["td"])


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str):
    html = page(hostile(text), facts={text: {text: text}})
    usual = page(hostile("x"), facts={"x": {"x": "x"}})
    assert [tag for tag, _ in html.elements] == [tag for tag, _ in usual.elements]
    assert [sorted(attributes) for _, attributes in html.elements] == [
        sorted(attributes) for _, attributes in usual.elements
    ]
    assert text in html.texts["bdi"]
    assert text in html.texts["code"]


def test_characters_that_act_unseen_are_written_out():
    text = render_report(hostile("a\u202eb\x00c\ud800d"), decide(hostile("x"), GateSection()))
    text.encode()  # a lone surrogate would raise here
    assert "a\\u202eb\\u0000c\\ud800d" in text
    assert "\u202e" not in text


def test_an_endless_answer_is_cut():
    endless = SystemScores("tuned", {}, ["SELECT " * 100_000], [INVALID], 1.0)
    judged = replace(evaluation([INVALID], [INVALID]), systems=[endless])
    text = render_report(judged, decide(judged, GateSection()))
    assert f"({700_000 - MAX_TEXT:,} more characters)" in text
    assert len(text) < 40_000


def test_the_page_needs_no_network_and_allows_one_script(judged: Evaluation):
    text = render_report(judged, decide(judged, GateSection()))
    html = Page(text)
    [policy] = [meta["content"] for meta in html.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert len(html.all("script")) == 1
    assert not html.all("link") + html.all("img") + html.all("iframe")
    assert not re.search(r"https?://|//cdn|@import|url\(", text)


def test_examples_hold_wrong_answers_too_and_never_more_than_asked():
    tuned = [WRONG if index % 10 == 0 else RIGHT for index in range(200)]
    states = [
        row["data-state"]
        for row in page(evaluation([WRONG] * 200, tuned), examples=30).all("tr")
        if "data-state" in row
    ]
    assert (len(states), states.count("wrong")) == (30, 15)


@pytest.mark.parametrize(
    ("wrong", "right", "limit", "shown"), [(3, 1, 10, 4), (9, 1, 6, 6), (1, 9, 6, 6), (0, 3, 2, 2), (5, 5, 0, 0)]
)
def test_number_of_examples(wrong: int, right: int, limit: int, shown: int):
    tuned = [WRONG] * wrong + [RIGHT] * right
    rows = [row for row in page(evaluation(tuned, tuned), examples=limit).all("tr") if "data-state" in row]
    assert len(rows) == shown


def test_controls_have_names(judged: Evaluation):
    html = page(judged)
    labelled = {attributes.get("for") for attributes in html.all("label")}
    assert {control["id"] for control in html.all("input") + html.all("select")} <= labelled


def test_a_report_without_a_base_is_rendered():
    judged = evaluation([RIGHT], [RIGHT])
    alone = Evaluation([TestRow("q", "c", "g", construct="k")], judged.systems[1:], "m", "not a date")
    html = page(alone)
    assert "not judged" in html.texts["p"]


BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine"),
]


def seen_by_a_browser(text: str, folder: Path) -> str:
    """The page's DOM after its script has run."""
    (folder / "report.html").write_text(text, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder / 'profile'}"]
    command = ["chromium", *flags, "--dump-dom", (folder / "report.html").as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


class TestInABrowser:
    pytestmark = BROWSER

    def test_our_script_runs_and_hostile_text_does_not(self, tmp_path: Path):
        bad = hostile("".join(HOSTILE))
        dom = seen_by_a_browser(render_report(bad, decide(bad, GateSection())), tmp_path)
        title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
        assert title is not None
        assert title[1] != "owned"
        assert "1 of 1 shown" in dom

    def test_a_script_that_slips_in_is_stopped_by_the_policy(self, judged: Evaluation, tmp_path: Path):
        text = render_report(judged, decide(judged, GateSection()))
        slipped = text.replace("</footer>", "</footer><script>document.title = 'owned'</script>")
        assert slipped != text
        assert "<title>owned</title>" not in seen_by_a_browser(slipped, tmp_path)

    def test_filters_and_theme_work(self, judged: Evaluation, tmp_path: Path):
        use = """
            const told = [], say = () => told.push(find("count").textContent);
            const input = () => new Event("input", {bubbles: true});
            const set = (id, value) => { find(id).value = value; find(id).dispatchEvent(input()); };
            set("words", "gold_2 QUESTION"); say();
            set("words", ""); set("change", "fixed"); say();
            set("kind", "like"); say(); told.push(find("nothing").hidden);
            set("kind", "join"); set("change", "right"); say();
            find("theme").click(); told.push(root.dataset.theme);
            find("theme").click(); told.push(root.dataset.theme);
            document.body.setAttribute("data-told", told.join("; "));
        """
        text = render_report(judged, decide(judged, GateSection()))
        text = re.sub(r"<meta http-equiv.*?>", "", text).replace("</body>", f"<script>{use}</script></body>")
        told = re.search(r'data-told="(.*?)"', seen_by_a_browser(text, tmp_path))
        assert told is not None
        assert told[1] == "1 of 4 shown; 2 of 4 shown; 0 of 4 shown; false; 2 of 4 shown; dark; light"


@pytest.mark.parametrize(("seen", "said"), [(0.0, "whose schemas were never trained on"), (0.586, "58.6% of them")])
def test_the_headline_says_whether_test_schemas_were_trained_on(judged: Evaluation, seen: float, said: str):
    text = render_report(judged, decide(judged, GateSection()), seen=seen)
    assert said in text
    assert ("never trained on" in text) == (not seen)
