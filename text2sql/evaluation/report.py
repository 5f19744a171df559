"""The report: one HTML page that needs no network, and is safe to open whatever a model wrote.

Autoescaping keeps text inert; a content security policy that names the one script by its hash is the second lock.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from text2sql.evaluation import marks, panels
from text2sql.evaluation.charts import loss_curve_svg
from text2sql.evaluation.examples import Example, choose_examples, vacuous_rows
from text2sql.evaluation.figures import (
    ACCURACY,
    SYSTEMS,
    Cell,
    best_rival,
    cell,
    compared,
    heading,
    show_comparison,
)
from text2sql.evaluation.gate import Verdict
from text2sql.evaluation.inert import cut, visible
from text2sql.evaluation.types import Evaluation, SystemScores

MAX_TEXT = 4000
"""Characters shown of one question, schema or answer: a model that never stops must not make the page unusable."""
MAX_CELL = 120
"""… of one value of a result."""
MAX_VACUOUS = 50
"""Vacuous rows that are listed."""


@dataclass(frozen=True)
class System:
    """How one system appears on the page."""

    scores: SystemScores
    heading: str
    meaning: str
    """"" for a name that the user gave."""
    key: Markup
    """Its mark."""
    wrong: int


@dataclass(frozen=True)
class Headline:
    """The lead system's execution accuracy, and the best rival's."""

    name: str
    own: Cell
    rival_name: str
    rival: Cell | None
    """None without a rival."""
    difference: str
    """"" where the two were not compared."""


def render_report(
    evaluation: Evaluation,
    verdict: Verdict | None,
    *,
    history: Sequence[Mapping[str, float]] = (),
    facts: Mapping[str, object] | None = None,
    examples: int = 50,
    seen: float | None = None,
    scripts: bool = True,
) -> str:
    """The page as text.

    Args:
        verdict: None where no gate was asked.
        history: dicts with `step` and any of `loss` and `eval_loss`; without one the loss curve is left out.
        facts: what is known of the data. A value is shown as it is, a mapping as a list, a mapping of mappings as a
            table, e.g. {"Rows": 8000, "Set aside": {"duplicate": 3}, "Splits": {"train": {"rows": 6400}}}.
        examples: how many predictions are shown at most; half of them wrong ones where there are so many.
        seen: share of the test rows with a table that training had too; None where that is not known.
        scripts: with filters and a switch for dark; without, for where no script may run.
    """
    styles = marks.styles([scores.name for scores in evaluation.systems])
    comparisons, difference_axis = panels.comparison_rows(evaluation, styles)
    shown = choose_examples(evaluation, examples)
    vacuous = vacuous_rows(evaluation)
    subject = next((place for place, scores in enumerate(evaluation.systems) if scores is evaluation.subject), 0)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            evaluation=evaluation,
            verdict=verdict,
            created=_day(evaluation.created),
            systems=[_system(scores, style) for scores, style in zip(evaluation.systems, styles, strict=True)],
            subject=subject,
            headline=_headline(evaluation),
            rows=panels.figure_rows(evaluation, styles),
            share_axis=marks.axis_svg(marks.SHARES, [f"{tick:.0%}" for tick in marks.SHARES.ticks]),
            comparisons=comparisons,
            difference_axis=difference_axis,
            panels=panels.slice_panels(evaluation, styles),
            faults=panels.fault_rows(evaluation, styles),
            fault_label=panels.fault_label,
            rule_text=panels.rule_text,
            vacuous=[evaluation.rows[place] for place in vacuous[:MAX_VACUOUS]],
            vacuous_count=len(vacuous),
            curve=Markup(loss_curve_svg(history)),  # noqa: S704 - numbers and fixed text only
            facts=facts or {},
            seen=seen,
            scripts=scripts,
            examples=shown,
            examples_wrong=sum(example.states[subject] != "right" for example in shown),
            faults_shown=sorted({fault for example in shown for fault in example.faults if fault}),
            choices=_choices(shown),
        )
    )


def _system(scores: SystemScores, style: str) -> System:
    wrong = sum(not row.executed for row in scores.rows)
    return System(scores, heading(scores.name), SYSTEMS.get(scores.name, ""), marks.key_svg(style), wrong)


def _headline(evaluation: Evaluation) -> Headline | None:
    subject, rival = evaluation.subject, best_rival(evaluation)
    if subject is None:
        return None
    own, other = (cell(ACCURACY, scores.figures, scores.intervals) if scores else None for scores in (subject, rival))
    if own is None or own.value is None:
        return None
    found = compared(evaluation, subject, rival)
    rival_name = rival.name if rival else ""
    return Headline(subject.name, own, rival_name, other, show_comparison(found) if found else "")


def _choices(shown: list[Example]) -> dict[str, list[str]]:
    """Dimension → values that the examples have, for the page's filter."""
    found: dict[str, set[str]] = {}
    for example in shown:
        for dimension, values in example.slices.items():
            found.setdefault(dimension, set()).update(values)
    return {dimension: sorted(values) for dimension, values in found.items()}


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("text2sql.evaluation", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters["csp_hash"] = _csp_hash
    environment.filters["cut"] = lambda text: cut(text, MAX_TEXT)
    environment.filters["value"] = _value
    environment.tests["table"] = _is_table
    return environment


def _shown(value: Any) -> Any:
    """What the page prints of a value: text without characters that act on the reader unseen."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return visible(value) if isinstance(value, str) else value


def _value(value: object) -> str:
    """A database's value as it is: no thousands set apart, no digit dropped."""
    return cut(str(value), MAX_CELL)


def _csp_hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(str(script).encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(part, Mapping) for part in value.values())


def _day(created: str) -> str:
    """An ISO time as people read it; any other text as it is."""
    try:
        return f"{datetime.fromisoformat(created):%d %B %Y, %H:%M %Z}".strip(", ")
    except ValueError:
        return created
