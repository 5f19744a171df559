"""The page as a parser and as a real browser see it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import escape as html_escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.evaluations import EQUIVALENT, INVALID, RIGHT, WRONG, differing, evaluation, several, system
from text2sql.config import GateSection
from text2sql.evaluation.gate import decide
from text2sql.evaluation.report import MAX_TEXT, render_report
from text2sql.evaluation.types import (
    Comparison,
    Difference,
    Evaluation,
    ResultSample,
    SliceScores,
    SystemScores,
    TestRow,
)

VOID = {"meta", "link", "img", "input", "br", "hr", "rect", "line", "circle", "polyline", "path"}
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
    """`text` wherever an evaluation has one that it did not write itself."""
    sample = ResultSample((text,), ((text,), (None,)), 2)
    bad = replace(WRONG, error=text, fault=text, vacuous=True, difference=Difference(text, sample, sample))
    figures, intervals = {"execution_accuracy": 0.0}, {"execution_accuracy": (0.0, 0.1)}
    systems = [
        SystemScores(name, figures, [text + name], [bad], 1.0, intervals, source=text, digest=text)
        for name in (text, text + "2")
    ]
    return Evaluation(
        [TestRow(text, text, text, (text,), slices={text: (text,)})],
        systems,
        model=text,
        created=text,
        comparisons=[Comparison(text, text + "2", 0.0, (0.0, 0.0), 0, 0, 1.0)],
        slices=[SliceScores(text, text, 1, {text: figures}, {text: intervals})],
        rows_digest=text,
    )


def data(html: Page, name: str) -> list[Any]:
    """What the rows of the examples tell the filters."""
    return [json.loads(row[f"data-{name}"] or "") for row in html.all("tr") if f"data-{name}" in row]


def test_structure_of_the_page(judged: Evaluation):
    html = page(judged, history=[{"step": 1, "loss": 1.0}], facts={"Rows": 8000})
    assert html.texts["h1"] == ["some/base-model"]
    assert html.texts["h2"] == ["✓ Gate passed: 4 rules kept", "Figures", "Comparisons", "Loss", "Data", "Examples"]
    assert html.texts["title"][0] == "some/base-model: Gate passed: 4 rules kept"
    assert html.all("html")[0]["lang"] == "en"
    assert data(html, "states") == [["wrong", "right"], ["invalid", "right"], ["right", "wrong"], ["invalid"] * 2]


def test_every_part_of_several_systems():
    html = page(several())
    assert html.texts["h2"][1:] == [
        "Figures",
        "Comparisons",
        "Execution accuracy by slice",
        "What is wrong with the wrong answers",
        "Examples",
    ]
    assert html.texts["h3"] == ["Hardness", "Construct"]
    pictures = [picture["aria-label"] for picture in html.all("svg") if "aria-label" in picture]
    assert "Execution accuracy. Base: 0.0% [-5.0, 5.0], Base, few-shot: 25.0% [20.0, 30.0], " in pictures[0]
    assert "Tuned against Champion: −25.0 points [−26.0, −24.0]" in pictures
    assert any(picture.startswith("easy. Base: 0.0% [-10.0, 10.0]") for picture in pictures)
    assert "Wrong filter: Base: 2, Base, few-shot: 2, Tuned: 1, Champion: 0" in pictures


def test_the_contents_lead_to_parts_that_are_there(judged: Evaluation):
    for shown in (judged, several()):
        html = page(shown)
        places = {attributes["id"] for _, attributes in html.elements if attributes.get("id")}
        links = [link["href"] or "" for link in html.all("a")]
        assert len(links) > 3
        assert {link.removeprefix("#") for link in links} <= places


def test_parts_without_material_are_left_out():
    html = page(replace(evaluation([RIGHT], [RIGHT]), comparisons=[]), GateSection(beats_base=None))
    assert html.texts["h2"] == ["✓ Gate passed: 3 rules kept", "Figures", "Examples"]
    assert {select.get("id") for select in html.all("select")} == {"system", "state", "change"}


def test_one_system_alone_and_no_gate():
    html = Page(render_report(several(names=("model",)), None))
    assert html.texts["h2"][0] == "Execution accuracy"
    assert html.texts["title"][0] == "some/base-model: evaluation"
    assert {select.get("id") for select in html.all("select")} == {"state", "fault", "slice"}
    assert not any("trained on" in text for text in html.texts["p"])


def test_the_headline_is_the_tuned_model_against_its_best_rival():
    text = render_report(several(), None)
    headline = re.sub(r"<[^>]+>|\s+", " ", text[text.index('class="leap"') : text.index('id="figures"')])
    words = " ".join(headline.split())
    assert "50.0% 95% interval [45.0, 55.0] execution accuracy of tuned on 8 test questions" in words
    assert "−25.0 points [−26.0, −24.0], p = 0.001 against champion: 75.0% [70.0, 80.0]" in words


def test_equal_answers_are_shown_once():
    systems = [replace(one, predictions=["SELECT same"] * 8) for one in several().systems]
    right = [replace(one, rows=[RIGHT] * 8) for one in systems]
    html = page(replace(several(), systems=right))
    assert html.texts["code"].count("SELECT same") == 8


def test_differing_results_are_shown_beside_each_other():
    html = page(several())
    captions = html.texts["figcaption"]
    assert {"Gold: 2 rows", "This answer: 0 rows", "This answer: 100 rows, the first 2"} <= set(captions)
    assert "Results differ on database 2: the same rows in another order" in html.texts["summary"]
    assert "NULL" in html.texts["i"]
    assert {"Ada", "Grace", "0.5"} <= set(html.texts["td"])


def test_rows_that_the_other_result_lacks_are_marked_only_where_all_are_known():
    html = page(several(names=("model",)))
    gold_alone = [row for row in html.all("tr") if row.get("class") == "only"]
    assert len(gold_alone) == 2 * 2, "both rows of the gold, twice, against an empty result"
    assert html.texts["p"].count("Coloured rows are in one of the two results alone.") == 2


def test_vacuous_rows_are_counted_and_listed():
    vague = replace(RIGHT, vacuous=True)
    html = page(evaluation([vague, RIGHT, vague], [vague, RIGHT, vague]))
    assert "Vacuous rows: 2 of 3" in html.texts["h2"]
    assert html.texts["bdi"][:2] == ["Question 0?", "Question 2?"]
    assert [row["data-vacuous"] for row in html.all("tr") if "data-vacuous" in row] == ["yes", "no", "yes"]


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
    for tag in ("bdi", "code", "td", "th", "h1", "h3", "dt", "dd", "option", "title", "summary"):
        assert any(text in found for found in html.texts[tag]), tag
    assert data(html, "faults") == [[text, text]]
    assert data(html, "slices") == [[f"{text}:{text}"]]


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
    assert len(text) < 60_000


def test_a_huge_result_is_cut():
    huge = ResultSample(tuple("c" * 500 for _ in range(300)), tuple(("v" * 5000,) * 300 for _ in range(50)), 10**6)
    judged = replace(evaluation([RIGHT], [RIGHT]), systems=[system("tuned", [differing("other", huge, huge)])])
    text = render_report(judged, None)
    assert "1,000,000 rows, the first 8; 292 more columns" in text
    assert len(text) < 100_000


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
    states = [after for _, after in data(page(evaluation([WRONG] * 200, tuned), examples=30), "states")]
    assert (len(states), states.count("wrong")) == (30, 15)


def test_rare_faults_are_among_the_examples():
    tuned = [replace(WRONG, fault="rare" if index == 77 else "common") for index in range(200)]
    faults = [after for _, after in data(page(evaluation(tuned, tuned), examples=20), "faults")]
    assert (faults.count("common"), faults.count("rare")) == (19, 1)


@pytest.mark.parametrize(
    ("wrong", "right", "limit", "shown"), [(3, 1, 10, 4), (9, 1, 6, 6), (1, 9, 6, 6), (0, 3, 2, 2), (5, 5, 0, 0)]
)
def test_number_of_examples(wrong: int, right: int, limit: int, shown: int):
    tuned = [WRONG] * wrong + [RIGHT] * right
    assert len(data(page(evaluation(tuned, tuned), examples=limit), "states")) == shown


def test_controls_have_names():
    html = page(several())
    labelled = {attributes.get("for") for attributes in html.all("label")}
    assert {control["id"] for control in html.all("input") + html.all("select")} <= labelled


@pytest.mark.parametrize("count", [0, 1, 9])
def test_any_number_of_systems_is_rendered(count: int):
    html = page(several(names=tuple(f"model {place}" for place in range(count))))
    assert len(html.all("dt")) >= count
    assert html.texts["h1"] == ["some/base-model"]


def test_an_odd_date_is_shown_as_it_is():
    assert "not a date" in page(replace(evaluation([RIGHT], [RIGHT]), created="not a date")).texts["p"][0]


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
        told = self.told(
            judged,
            """
            set("words", "gold_2 QUESTION"); say();
            set("words", ""); set("change", "fixed:0"); say();
            set("slice", "construct:like"); say(); told.push(find("nothing").hidden);
            set("slice", "construct:join"); set("state", "right"); say();
            set("system", "0"); set("change", "broken:1"); say();
            find("theme").click(); told.push(root.dataset.theme);
            find("theme").click(); told.push(root.dataset.theme);
            """,
            tmp_path,
        )
        assert told == "1 of 4; 2 of 4; 0 of 4; false; 2 of 4; 0 of 4; dark; light"

    def test_filters_of_several_systems_and_links_from_the_plots(self, tmp_path: Path):
        told = self.told(
            several(),
            """
            set("state", "wrong"); say(); set("system", "0"); say(); set("system", "2");
            set("state", ""); set("change", "broken:3"); say(); set("change", "fixed:1"); say();
            box.reset(); told.push(find("system").value);
            document.querySelector('a[data-value="wrong_filter"]').click();
            told.push(find("fault").value, location.hash); say();
            document.querySelector('a[data-value="hardness:hard"]').click();
            told.push(find("fault").value, find("slice").value); say();
            """,
            tmp_path,
        )
        assert (
            told
            == "3 of 8; 6 of 8; 2 of 8; 2 of 8; 2; wrong_filter; #examples-heading; 1 of 8; ; hardness:hard; 4 of 8"
        )

    def test_a_filter_by_a_hostile_fault_finds_its_row(self, tmp_path: Path):
        text = HOSTILE[0]
        told = self.told(
            hostile(text), f'set("fault", {json.dumps(text).replace("</", "<" + chr(92) + "/")}); say();', tmp_path
        )
        assert told == "1 of 1"

    def test_a_phone_does_not_scroll_sideways(self, tmp_path: Path):
        measure = (
            "const of = frame.contentDocument.documentElement; document.title = of.scrollWidth + '/' + of.clientWidth"
        )
        outer = (
            f'<iframe id=frame width=390 height=800 onload="{measure}" srcdoc=\''
            + html_escape(re.sub(r"<meta http-equiv.*?>", "", render_report(several(), None)))
            + "'></iframe>"
        )
        title = re.search(r"<title>(\d+)/(\d+)</title>", seen_by_a_browser(outer, tmp_path))
        assert title is not None
        assert title[1] == title[2]

    def told(self, judged: Evaluation, use: str, folder: Path) -> str:
        """What a script that uses the page reports."""
        script = f"""
            const told = [], say = () => told.push(find("count").textContent.replace(" shown", ""));
            const input = () => new Event("input", {{bubbles: true}});
            const set = (id, value) => {{ find(id).value = value; find(id).dispatchEvent(input()); }};
            {use}
            document.body.setAttribute("data-told", told.join("; "));
        """
        text = render_report(judged, decide(judged, GateSection()))
        text = re.sub(r"<meta http-equiv.*?>", "", text).replace("</body>", f"<script>{script}</script></body>")
        found = re.search(r'data-told="(.*?)"', seen_by_a_browser(text, folder))
        assert found is not None
        return found[1]


@pytest.mark.parametrize(("seen", "said"), [(0.0, "whose schemas were never trained on"), (0.586, "58.6% of them")])
def test_the_headline_says_whether_test_schemas_were_trained_on(judged: Evaluation, seen: float, said: str):
    text = render_report(judged, decide(judged, GateSection()), seen=seen)
    assert said in text
    assert ("never trained on" in text) == (not seen)
