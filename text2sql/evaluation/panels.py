"""What the report draws of an evaluation: figures, comparisons, slices and faults, each row with its picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from text2sql.evaluation import marks
from text2sql.evaluation.faults import FAULTS
from text2sql.evaluation.figures import (
    ACCURACY,
    Cell,
    FigureRow,
    cell,
    figure_table,
    heading,
    show_difference,
    show_p,
)
from text2sql.evaluation.gate import RuleResult
from text2sql.evaluation.types import Comparison, Evaluation, SliceScores

MAX_VALUES = 24
"""Of one dimension that are drawn."""
LONG = 6
"""Rows of a panel that fit in one column."""
HARDNESS = ("easy", "medium", "hard", "extra")


@dataclass(frozen=True)
class FigurePanelRow:
    """One figure of every system."""

    row: FigureRow
    picture: Markup | None
    """None where no scale from 0 to 100 fits."""


@dataclass(frozen=True)
class ComparisonRow:
    """One system against another."""

    system: str
    other: str
    difference: str
    interval: str
    only_system: int
    only_other: int
    p_value: str
    better: bool | None
    """None where the interval holds zero."""
    picture: Markup


@dataclass(frozen=True)
class SliceRow:
    """Execution accuracy of every system on one slice."""

    name: str
    """As `dimension:value`."""
    value: str
    rows: int
    cells: tuple[Cell, ...]
    picture: Markup


@dataclass(frozen=True)
class SlicePanel:
    """The slices of one dimension."""

    dimension: str
    rows: list[SliceRow]
    left_out: int
    overlap: bool
    """A row can count in several of them."""

    @property
    def axes(self) -> tuple[int, ...]:
        """Places of the rows that have the scale above them: a long panel is set in two columns."""
        return (0,) if len(self.rows) <= LONG else (0, (len(self.rows) + 1) // 2)


@dataclass(frozen=True)
class FaultRow:
    """How often every system made one fault."""

    slug: str
    label: str
    meaning: str
    counts: tuple[int, ...]
    picture: Markup


def figure_rows(evaluation: Evaluation, styles: Sequence[str]) -> list[FigurePanelRow]:
    """A row a figure; no picture for a ratio, nor for one that is neither good nor bad."""
    names = [heading(scores.name) for scores in evaluation.systems]
    return [
        FigurePanelRow(row, _figure_picture(row, names, styles) if _drawn(row) else None)
        for row in figure_table(evaluation)
    ]


def comparison_rows(evaluation: Evaluation, styles: Sequence[str]) -> tuple[list[ComparisonRow], Markup | None]:
    """A row a comparison, and the axis over their pictures; None without any."""
    found = evaluation.comparisons
    if not found:
        return [], None
    scale = marks.scale_around_zero([end for comparison in found for end in comparison.interval])
    style = dict(zip((scores.name for scores in evaluation.systems), styles, strict=True))
    rows = [_comparison(comparison, style.get(comparison.system, "tuned"), scale) for comparison in found]
    return rows, marks.axis_svg(scale, [f"{100 * tick:+g}" if tick else "0" for tick in scale.ticks])


def slice_panels(evaluation: Evaluation, styles: Sequence[str]) -> list[SlicePanel]:
    """A panel a dimension, in the evaluation's order but that long ones come last."""
    dimensions: dict[str, list[SliceScores]] = {}
    for part in evaluation.slices:
        dimensions.setdefault(part.dimension, []).append(part)
    panels = [
        SlicePanel(
            dimension,
            [_slice(evaluation, part, styles) for part in in_order(parts)[:MAX_VALUES]],
            left_out=max(len(parts) - MAX_VALUES, 0),
            overlap=sum(part.rows for part in parts) > len(evaluation.rows),
        )
        for dimension, parts in dimensions.items()
    ]
    return sorted(panels, key=lambda panel: len(panel.axes))


def fault_rows(evaluation: Evaluation, styles: Sequence[str]) -> list[FaultRow]:
    """The faults that any system made, the most frequent first."""
    counts = fault_counts(evaluation)
    longest = max((max(row) for row in counts.values()), default=0)
    names = [heading(scores.name) for scores in evaluation.systems]
    rows = []
    for slug, row in counts.items():
        told = [f"{name}: {count:,}" for name, count in zip(names, row, strict=True)]
        drawn = [marks.Mark(*parts) for parts in zip(styles, row, told, strict=True)]
        name = fault_label(slug)
        picture = marks.bars_svg(drawn, longest, f"{name}: {', '.join(told)}")
        rows.append(FaultRow(slug, name, FAULTS.get(slug, ""), row, picture))
    return rows


def fault_counts(evaluation: Evaluation) -> dict[str, tuple[int, ...]]:
    """Answers with each fault by system, the most frequent first."""
    by_system = [Counter(score.fault for score in scores.rows if score.fault) for scores in evaluation.systems]
    total = sum(by_system, Counter[str | None]())
    return {slug: tuple(counts[slug] for counts in by_system) for slug, _ in total.most_common() if slug}


def fault_label(slug: str) -> str:
    """A fault's name for people."""
    return slug.replace("_", " ").capitalize()


def rule_text(rule: RuleResult) -> str:
    """Why a rule of the gate is kept or broken, with the figure's interval; that of a difference is in the reason."""
    if rule.interval is None or rule.name.startswith("beats_"):
        return rule.reason
    return f"{rule.reason}; its 95% interval is [{rule.interval[0]:.3f}, {rule.interval[1]:.3f}]"


def in_order(parts: list[SliceScores]) -> list[SliceScores]:
    """As people expect them: by hardness, then by number, then the most frequent first."""

    def key(part: SliceScores) -> tuple[int, int, str]:
        if part.value in HARDNESS:
            return 0, HARDNESS.index(part.value), ""
        if part.value[:1].isdigit():
            return 1, len(part.value.rstrip("+")), part.value
        return 2, -part.rows, part.value

    return sorted(parts, key=key)


def _drawn(row: FigureRow) -> bool:
    return row.figure.unit != "ratio" and row.figure.better != "neither"


def _figure_picture(row: FigureRow, names: Sequence[str], styles: Sequence[str]) -> Markup:
    whole = 100.0 if row.figure.unit == "points" else 1.0
    return _whiskers(row.figure.label, row.cells, names, styles, whole)


def _slice(evaluation: Evaluation, part: SliceScores, styles: Sequence[str]) -> SliceRow:
    names = [scores.name for scores in evaluation.systems]
    cells = tuple(cell(ACCURACY, part.figures.get(name, {}), part.intervals.get(name, {})) for name in names)
    headings = [heading(name) for name in names]
    return SliceRow(part.name, part.value, part.rows, cells, _whiskers(part.value, cells, headings, styles))


def _whiskers(
    label: str, cells: Sequence[Cell], names: Sequence[str], styles: Sequence[str], whole: float = 1.0
) -> Markup:
    """`whole` is the value at the right edge."""
    drawn, told = [], []
    for shown, name, style in zip(cells, names, styles, strict=True):
        text = f"{name}: {shown.text} {shown.interval_text}".strip()
        low, high = shown.interval or (0.0, 0.0)
        value = None if shown.value is None else shown.value / whole
        drawn.append(marks.Mark(style, value, text, (low / whole, high / whole) if shown.interval else None))
        told.append(text)
    return marks.whiskers_svg(drawn, marks.SHARES, f"{label}. {', '.join(told)}")


def _comparison(found: Comparison, style: str, scale: marks.Scale) -> ComparisonRow:
    low, high = found.interval
    difference, interval = show_difference(found.difference), "[{}, {}]".format(*map(show_difference, found.interval))
    told = f"{heading(found.system)} against {heading(found.other)}: {difference} points {interval}"
    return ComparisonRow(
        heading(found.system),
        heading(found.other),
        difference,
        interval,
        found.only_system,
        found.only_other,
        show_p(found.p_value),
        better=True if low > 0 else False if high < 0 else None,
        picture=marks.whiskers_svg([marks.Mark(style, found.difference, told, found.interval)], scale, told),
    )
