"""The report: one HTML page that needs no network, and is safe to open whatever a model wrote.

Autoescaping keeps text inert; a content security policy that names the one script by its hash is the second lock.
"""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from text2sql.evaluation.charts import loss_curve_svg
from text2sql.evaluation.figures import FIGURES, ComparisonRow, comparison_table
from text2sql.evaluation.gate import Verdict
from text2sql.evaluation.types import Evaluation, RowScore, SystemScores

__all__ = ["ComparisonRow", "comparison_table", "loss_curve_svg", "render_report"]

MAX_TEXT = 4000
"""Characters shown of one question, schema or answer: a model that never stops must not make the page unusable."""


@dataclass(frozen=True)
class Answer:
    """One system's answer to one question."""

    sql: str
    score: RowScore

    @property
    def state(self) -> str:
        """right: the gold's result; wrong: another result; invalid: no result."""
        if self.score.executed:
            return "right"
        return "wrong" if self.score.valid else "invalid"


@dataclass(frozen=True)
class Example:
    """One test row with what both systems answered."""

    question: str
    context: str
    gold: str
    construct: str
    base: Answer | None
    tuned: Answer | None

    @property
    def change(self) -> str:
        """What tuning did to the row, as the page's filter names it."""
        if self.base is None or self.tuned is None:
            return "one-sided"
        before, after = self.base.score.executed, self.tuned.score.executed
        return {(False, True): "fixed", (True, False): "broken", (True, True): "kept"}.get((before, after), "open")


@dataclass(frozen=True)
class ConstructRow:
    """Execution accuracy on the test rows of one construct."""

    name: str
    rows: int
    base: float | None
    tuned: float | None


def render_report(
    evaluation: Evaluation,
    verdict: Verdict,
    *,
    history: Sequence[Mapping[str, float]] = (),
    facts: Mapping[str, object] | None = None,
    examples: int = 50,
    seen: float = 0.0,
) -> str:
    """The page as text.

    Args:
        history: dicts with `step` and any of `loss` and `eval_loss`; without one the loss curve is left out.
        facts: what is known of the data. A value is shown as it is, a mapping as a list, a mapping of mappings as a
            table, e.g. {"Rows": 8000, "Set aside": {"duplicate": 3}, "Splits": {"train": {"rows": 6400}}}.
        examples: how many predictions are shown at most; half of them wrong ones where there are so many.
        seen: share of the test rows with a table that training had too.
    """
    rows = comparison_table(evaluation)
    shown = _examples(evaluation, examples)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            evaluation=evaluation,
            verdict=verdict,
            created=_day(evaluation.created),
            rows=rows,
            headline=next((row for row in rows if row.figure.key == "execution_accuracy"), None),
            constructs=_by_construct(evaluation),
            accuracy=FIGURES[0],
            curve=Markup(loss_curve_svg(history)),  # noqa: S704 - numbers and fixed text only
            facts=facts or {},
            seen=seen,
            examples=shown,
            examples_wrong=sum(example.tuned is None or not example.tuned.score.executed for example in shown),
            kinds=sorted({example.construct for example in shown if example.construct}),
        )
    )


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
    environment.filters["cut"] = _cut
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
    return _visible(value) if isinstance(value, str) else value


def _visible(text: str) -> str:
    """Control characters, lone surrogates and direction overrides written out: NUL, U+202E and their like."""
    return "".join(
        f"\\u{ord(character):04x}"
        if unicodedata.category(character) in ("Cc", "Cf", "Cs") and character not in "\n\t\u200c\u200d"
        else character
        for character in text.replace("\r\n", "\n")
    )


def _cut(text: str) -> str:
    """At most MAX_TEXT characters, and how many are left out."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} … ({len(text) - MAX_TEXT:,} more characters)"


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


def _by_construct(evaluation: Evaluation) -> list[ConstructRow]:
    """The most frequent construct first; none when the rows carry no labels."""
    places: dict[str, list[int]] = {}
    for index, construct in enumerate(row.construct for row in evaluation.rows):
        if construct:
            places.setdefault(construct, []).append(index)
    systems = {scores.name: scores for scores in evaluation.systems}
    rows = [
        ConstructRow(name, len(at), _share(systems.get("base"), at), _share(systems.get("tuned"), at))
        for name, at in places.items()
    ]
    return sorted(rows, key=lambda row: (-row.rows, row.name))


def _share(scores: SystemScores | None, at: list[int]) -> float | None:
    return None if scores is None else sum(scores.rows[index].executed for index in at) / len(at)


def _examples(evaluation: Evaluation, limit: int) -> list[Example]:
    """Evenly spaced over the test rows, and up to half of them rows that the tuned model got wrong."""
    systems = {scores.name: scores for scores in evaluation.systems}
    tuned = systems.get("tuned")
    everything = range(len(evaluation.rows))
    wrong = [index for index in everything if tuned is not None and not tuned.rows[index].executed]
    right = [index for index in everything if tuned is None or tuned.rows[index].executed]
    of_wrong = max(min(len(wrong), limit // 2), min(len(wrong), limit - len(right)))
    chosen = sorted(_spread(wrong, of_wrong) + _spread(right, limit - of_wrong))
    return [
        Example(
            evaluation.rows[index].question,
            evaluation.rows[index].context,
            evaluation.rows[index].gold,
            evaluation.rows[index].construct,
            _answer(systems.get("base"), index),
            _answer(tuned, index),
        )
        for index in chosen
    ]


def _spread(places: list[int], wanted: int) -> list[int]:
    if wanted <= 0:
        return []
    if wanted >= len(places):
        return places
    return [places[index * len(places) // wanted] for index in range(wanted)]


def _answer(scores: SystemScores | None, index: int) -> Answer | None:
    return None if scores is None else Answer(scores.predictions[index], scores.rows[index])
