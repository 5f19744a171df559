"""An evaluation as Markdown, for a pull request or the log of a CI job.

Everything that a model, a user or a data set wrote stands in code spans, where it can do nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from text2sql.evaluation.examples import vacuous_rows
from text2sql.evaluation.faults import FAULTS
from text2sql.evaluation.figures import (
    ACCURACY,
    HEADINGS,
    Cell,
    best_rival,
    cell,
    compared,
    figure_table,
    show_comparison,
    show_difference,
    show_p,
)
from text2sql.evaluation.gate import RuleResult, Verdict
from text2sql.evaluation.inert import Markdown, code_span, markdown_table
from text2sql.evaluation.panels import fault_counts, fault_label, rule_text
from text2sql.evaluation.types import Evaluation, SliceScores, SystemScores

WORST_SLICES, TOP_FAULTS = 5, 5
MIN_ROWS = 10
"""Of a slice that is named: in fewer rows chance has too much to say."""


def summary_markdown(
    evaluation: Evaluation, verdict: Verdict | None, *, facts: Mapping[str, object] | None = None
) -> str:
    """A page of Markdown.

    Args:
        verdict: None where no gate was asked.
        facts: what else is known, e.g. {"Training rows": 6400, "Set aside": {"duplicate": 3}}.
    """
    parts = list(_opening(evaluation, verdict))
    if verdict and verdict.rules:
        parts += [markdown_table(("", "Rule of the gate", "What was found"), map(_rule, verdict.rules))]
    parts += ["### Figures\n", figures_by_system(evaluation), *_comparisons(evaluation)]
    parts += [*_worst_slices(evaluation), *_faults(evaluation), *_vacuous(evaluation)]
    if facts:
        parts += ["### Facts\n", markdown_table(("Fact", "Value"), fact_rows(facts))]
    return "\n".join(parts)


def fact_rows(facts: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Name and value; a mapping gives a row a part."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}: {part}", _in_one_line(inner)) for part, inner in value.items())
        else:
            yield name, str(value)


def _in_one_line(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    return str(value)


def figures_by_system(evaluation: Evaluation) -> str:
    """A Markdown table of every figure, a column a system, with 95% intervals."""
    head = ["Figure", *(system_title(scores.name) for scores in evaluation.systems)]
    rows = [[row.figure.label, *map(_numbers, row.cells)] for row in figure_table(evaluation)]
    return markdown_table(head, rows, numbers=True)


def system_title(name: str) -> str:
    """A system's name in Markdown: one that the user gave is code."""
    return HEADINGS.get(name) or code_span(name, 80)


def _opening(evaluation: Evaluation, verdict: Verdict | None) -> Iterator[str]:
    title = f"{'✓' if verdict.passed else '✗'} {verdict.headline}" if verdict else "Evaluation"
    yield f"## {title}\n"
    model, created = code_span(evaluation.model), code_span(evaluation.created)
    yield f"{len(evaluation.rows):,} test rows, base model {model}, {created}\n"
    subject, rival = evaluation.subject, best_rival(evaluation)
    if subject is None:
        return
    own = cell(ACCURACY, subject.figures, subject.intervals)
    said = f"{ACCURACY.label} of {system_title(subject.name)}: **{own.text}** {own.interval_text}".rstrip()
    if rival is not None:
        other = cell(ACCURACY, rival.figures, rival.intervals)
        found = compared(evaluation, subject, rival)
        difference = f"{show_comparison(found)}, " if found else ""
        said += f"; {difference}against {other.text} {other.interval_text}".rstrip() + f" of {system_title(rival.name)}"
    yield f"{said}.\n"


def _numbers(shown: Cell) -> Markdown:
    return Markdown(f"{shown.text} {shown.interval_text}".rstrip())


def _rule(rule: RuleResult) -> tuple[str, str, str]:
    return "✓" if rule.passed else "✗", code_span(f"gate.{rule.name}"), rule_text(rule)


def _comparisons(evaluation: Evaluation) -> Iterator[str]:
    if not evaluation.comparisons:
        return
    head = ("Execution accuracy", "Points", "95% interval", "Right alone", "Other alone", "McNemar")
    rows = [
        (
            code_span(f"{found.system} − {found.other}"),
            show_difference(found.difference),
            Markdown("[{}, {}]".format(*map(show_difference, found.interval))),
            f"{found.only_system:,}",
            f"{found.only_other:,}",
            Markdown(show_p(found.p_value)),
        )
        for found in evaluation.comparisons
    ]
    yield "### Comparisons\n"
    yield markdown_table(head, rows, numbers=True)


def _worst_slices(evaluation: Evaluation) -> Iterator[str]:
    """Of the lead system."""
    subject = evaluation.subject
    if subject is None:
        return

    def accuracy(part: SliceScores) -> float:
        return part.figures.get(subject.name, {}).get(ACCURACY.key, math.nan)

    known = [part for part in evaluation.slices if part.rows >= MIN_ROWS and math.isfinite(accuracy(part))]
    if not known:
        return
    names = [scores.name for scores in evaluation.systems]
    rows = []
    for part in sorted(known, key=accuracy)[:WORST_SLICES]:
        shown = [cell(ACCURACY, part.figures.get(name, {}), part.intervals.get(name, {})) for name in names]
        rows.append((code_span(part.name), f"{part.rows:,}", *map(_numbers, shown)))
    yield f"### Worst slices of {system_title(subject.name)}\n"
    yield markdown_table(("Slice", "Rows", *map(system_title, names)), rows, numbers=True)


def _faults(evaluation: Evaluation) -> Iterator[str]:
    """Counts of the most frequent faults, and the lead system's first answer with each."""
    subject, counts = evaluation.subject, fault_counts(evaluation)
    if subject is None or not counts:
        return
    place = evaluation.systems.index(subject)
    top = sorted(counts, key=lambda slug: -counts[slug][place])[:TOP_FAULTS]
    head = ("Fault", *(system_title(scores.name) for scores in evaluation.systems))
    yield "### Faults\n"
    yield markdown_table(head, [(_fault_name(slug), *map(str, counts[slug])) for slug in top], numbers=True)
    yield "".join(_example(evaluation, subject, slug) for slug in top if counts[slug][place])


def _fault_name(slug: str) -> str:
    return fault_label(slug) if slug in FAULTS else code_span(slug)


def _example(evaluation: Evaluation, subject: SystemScores, slug: str) -> str:
    i = next(i for i, score in enumerate(subject.rows) if score.fault == slug)
    meaning = f": {FAULTS[slug]}" if slug in FAULTS else ""
    error = f"\n  - error {code_span(subject.rows[i].error or '')}" if subject.rows[i].error else ""
    return (
        f"- **{_fault_name(slug)}**{meaning}\n  - question {code_span(evaluation.rows[i].question)}\n"
        f"  - gold {code_span(evaluation.rows[i].gold)}\n  - answer {code_span(subject.predictions[i])}{error}\n"
    )


def _vacuous(evaluation: Evaluation) -> Iterator[str]:
    count = len(vacuous_rows(evaluation))
    if count:
        verb = "is" if count == 1 else "are"
        yield (
            f"{count:,} of {len(evaluation.rows):,} rows {verb} vacuous: no database tells their gold from its "
            "neighbours, and an answer counts as right only if it is an exact match.\n"
        )
