"""Small pictures in a report's tables: intervals as dots with whiskers, counts as bars, a line a system.

Positions along x are percentages, so that a picture fits any width; colours are the page's, by class. Systems differ
by shape too. Only text given as `title` or `summary` is other people's, and it is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from text2sql.evaluation.inert import visible
from text2sql.evaluation.types import Interval

LINE = 16
"""Pixels from one line to the next; the page's CSS sets the numbers beside them alike."""
SHAPES = {
    "tuned": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0",
    "champion": "M0-5.6 5.6 0 0 5.6-5.6 0z",
    "few-shot": "M0-5.4 5.2 3.8H-5.2z",
    "base": "M-4-4H4V4H-4z",
    "other": "M0 5.4 5.2-3.8H-5.2z",
    "another": "M-1.8-5H1.8V-1.8H5V1.8H1.8V5H-1.8V1.8H-5V-1.8H-1.8z",
}
"""Style of a system → its shape around 0, 0."""
STYLES = {"base": "base", "base_few_shot": "few-shot", "tuned": "tuned", "champion": "champion"}
"""Of the systems of a train run."""


@dataclass(frozen=True)
class Scale:
    """What a picture's left and right edge stand for, and where its grid lines are."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> str:
        """Along x; beyond an edge is at the edge."""
        share = (value - self.low) / (self.high - self.low)
        return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


SMALLEST = 1e-3
"""Spread of a scale: two systems that answer alike differ by nothing at all."""
SHARES = Scale(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))


@dataclass(frozen=True)
class Mark:
    """One line of a picture."""

    style: str
    value: float | None
    """None leaves the line empty."""
    title: str
    """What a pointer over it is told."""
    interval: Interval | None = None


def styles(names: Sequence[str]) -> list[str]:
    """A style a system; of two systems alike only beyond as many as there are styles."""
    taken = {STYLES[name] for name in names if name in STYLES}
    free = [style for style in SHAPES if style not in taken] or list(SHAPES)
    others = [name for name in names if name not in STYLES]
    given = {name: free[place % len(free)] for place, name in enumerate(others)}
    return [STYLES.get(name) or given[name] for name in names]


def scale_around_zero(values: Iterable[float]) -> Scale:
    """Round numbers about all values and zero."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    if high - low < SMALLEST:
        high = low + SMALLEST
    spread = high - low
    power = 10.0 ** math.floor(math.log10(spread))
    step = next(power * part for part in (0.25, 0.5, 1.0, 2.5) if spread <= power * part * 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(first * step, last * step, tuple(step * count for count in range(first, last + 1)))


def key_svg(style: str) -> Markup:
    """A system's mark for a legend."""
    shape = f'<path class="{style}" transform="translate(7 7)" d="{SHAPES[style]}"/>'
    return Markup(f'<svg class="key" width="14" height="14" aria-hidden="true">{shape}</svg>')  # noqa: S704 - ours


def axis_svg(scale: Scale, texts: Sequence[str]) -> Markup:
    """The names of the grid lines, over a column of pictures."""
    last = len(texts) - 1
    labels = "".join(
        f'<text class="{"minor" if place % 2 else "major"}" x="{scale.place(tick)}" y="11" '
        f'text-anchor="{_anchor(place, last)}">{text}</text>'
        for place, (tick, text) in enumerate(zip(scale.ticks, texts, strict=True))
    )
    return _picture("axis", LINE, "", labels)


def whiskers_svg(marks: Sequence[Mark], scale: Scale, summary: str) -> Markup:
    """A dot a mark, with a line from end to end of its interval."""
    grid = "".join(
        f'<line class="{"zero" if tick == 0 else "tick"}" x1="{at}" x2="{at}" y1="0" y2="100%"/>'
        for tick, at in ((tick, scale.place(tick)) for tick in scale.ticks)
    )
    drawn = "".join(_whisker(mark, scale, LINE * place + LINE // 2) for place, mark in enumerate(marks))
    return _picture("whiskers", LINE * len(marks), summary, grid + drawn)


def bars_svg(marks: Sequence[Mark], longest: float, summary: str) -> Markup:
    """A bar a mark; `longest` fills the width."""
    drawn = "".join(
        f'<g><title>{_escaped(mark.title)}</title><rect class="track" x="0" y="{LINE * place + 2}" width="100%" '
        f'height="{LINE - 4}" rx="3"/><rect class="{mark.style}" x="0" y="{LINE * place + 2}" '
        f'width="{100 * (mark.value or 0) / max(longest, 1):.2f}%" height="{LINE - 4}" rx="3"/></g>'
        for place, mark in enumerate(marks)
    )
    return _picture("counts", LINE * len(marks), summary, drawn)


def _whisker(mark: Mark, scale: Scale, y: int) -> str:
    if mark.value is None or not math.isfinite(mark.value):
        return ""
    low, high = (scale.place(end) for end in mark.interval or (mark.value, mark.value))
    line = f'<line x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
    ends = "".join(f'<line x1="{x}" x2="{x}" y1="{y - 3}" y2="{y + 3}"/>' for x in (low, high))
    dot = f'<svg x="{scale.place(mark.value)}" y="{y}"><path d="{SHAPES[mark.style]}"/></svg>'
    title = f"<title>{_escaped(mark.title)}</title>"
    return f'<g class="{mark.style}">{title}{(line + ends) if mark.interval else ""}{dot}</g>'


def _picture(kind: str, height: int, summary: str, content: str) -> Markup:
    told = f'role="img" aria-label="{_escaped(summary)}"' if summary else 'aria-hidden="true"'
    return Markup(f'<svg class="{kind}" width="100%" height="{height}" {told}>{content}</svg>')  # noqa: S704 - escaped


def _anchor(place: int, last: int) -> str:
    return "start" if place == 0 else "end" if place == last else "middle"


def _escaped(text: str) -> str:
    return str(Markup.escape(visible(text)))
