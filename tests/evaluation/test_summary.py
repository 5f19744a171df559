from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.evaluation.evaluations import RIGHT, evaluation, several
from text2sql.config import GateSection
from text2sql.evaluation.faults import FAULTS
from text2sql.evaluation.gate import decide
from text2sql.evaluation.summary import MIN_ROWS, summary_markdown
from text2sql.evaluation.types import Evaluation, SystemScores

HOSTILE = [
    "<script>alert(1)</script>",
    "![x](https://example.org/x.png) @someone #1",
    "a | b\n\n# heading\n- [ ] item",
    "`` ` ``` code",
    "text\u202e\x00",
    "https://example.org",
    r"a\| b <b>",
]


def hostile(text: str) -> Evaluation:
    judged = several(20, ("base", "tuned"))
    systems = [
        SystemScores(
            one.name if one.name == "tuned" else text,
            one.figures,
            [text] * 20,
            [replace(row, error=text, fault=text if row.fault else None) for row in one.rows],
            1.0,
        )
        for one in judged.systems
    ]
    slices = [replace(part, dimension=text, value=text) for part in judged.slices]
    rows = [replace(row, question=text, gold=text) for row in judged.rows]
    comparisons = [replace(found, other=text) for found in judged.comparisons]
    return replace(judged, systems=systems, slices=slices, rows=rows, comparisons=comparisons, model=text, created=text)


def test_parts_in_order():
    text = summary_markdown(several(40), decide(several(40), GateSection()), facts={"Rows": {"a": {"b": 1}}, "n": 2})
    assert re.findall(r"^##.*", text, re.MULTILINE) == [
        "## ✗ Gate failed: 2 of 5 rules broken",
        "### Figures",
        "### Comparisons",
        "### Worst slices of Tuned",
        "### Faults",
        "### Facts",
    ]
    assert "| Rows: a | b 1 |\n| n | 2 |" in text


def test_figures_intervals_comparisons_and_rules():
    judged = several()
    text = summary_markdown(judged, decide(judged, GateSection(execution_accuracy={"min": 0.6})))
    assert (
        "Execution accuracy of Tuned: **50.0%** [45.0, 55.0]; −25.0 points [−26.0, −24.0], p = 0.001, "
        "against 75.0% [70.0, 80.0] of Champion." in text
    )
    assert "| Execution accuracy | 0.0% [-5.0, 5.0] | 25.0% [20.0, 30.0] | 50.0% [45.0, 55.0] |" in text
    assert "| `tuned − champion` | −25.0 | [−26.0, −24.0] | 0 | 2 | p = 0.001 |" in text
    assert "| ✗ | `gate.execution_accuracy.min` | Execution accuracy 0.500 is below the minimum of 0.600; " in text


def test_the_worst_slices_come_first_and_small_ones_not_at_all():
    judged = several(40)
    text = summary_markdown(judged, None)
    part = text[text.index("### Worst slices") :]
    assert re.findall(r"^\| `(.*?)` \| (\d+)", part, re.MULTILINE)[:2] == [
        ("hardness:hard", "20"),
        ("hardness:easy", "20"),
    ]
    assert "Worst slices" not in summary_markdown(several(MIN_ROWS - 1), None)


def test_faults_are_counted_with_an_example_of_the_lead_system_each():
    judged = several()
    text = summary_markdown(judged, None)
    assert "| Wrong filter | 2 | 2 | 1 | 0 |" in text
    place = next(i for i, row in enumerate(judged.system("tuned").rows) if row.fault == "wrong_filter")
    assert f"- **Wrong filter**: {FAULTS['wrong_filter']}\n  - question `Question {place}?`" in text
    assert f"  - answer `SELECT tuned_{place}`" in text
    assert "  - error `no such column: nam`" in text


def test_vacuous_rows_are_counted():
    vague = replace(RIGHT, vacuous=True)
    assert "1 of 2 rows is vacuous" in summary_markdown(evaluation([vague, RIGHT], [vague, RIGHT]), None)
    assert "vacuous:" not in summary_markdown(evaluation([RIGHT], [RIGHT]), None)


def test_one_system_and_none():
    assert "Execution accuracy of `model`: **0.0%** [-5.0, 5.0]." in summary_markdown(several(names=("model",)), None)
    assert "## Evaluation" in summary_markdown(several(names=()), None)


def parsed(text: str) -> tuple[list[str], str]:
    """Kinds of what a Markdown parser finds, and all text outside code."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    flat = [part for token in tokens for part in (token, *(token.children or ()))]
    return [part.type for part in flat], " ".join(part.content for part in flat if part.type == "text")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_code_and_nothing_else(text: str):
    kinds, outside = parsed(summary_markdown(hostile(text), None))
    usual_kinds, usual_outside = parsed(summary_markdown(hostile("x"), None))
    assert kinds == usual_kinds
    assert outside == usual_outside
    assert not {"html_inline", "html_block", "link_open", "image"} & set(kinds)
