"""The loss curve as a picture that needs no script and no network.

The SVG stretches to the width it is given while its text keeps its size: positions along x are percentages, and only
the lines live in a nested box that is stretched. Labels along y stand in a margin of its own, outside of all of this,
where no point of a curve can be. Colours come from the page's CSS variables, with a fallback each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

HEIGHT = 260
TOP, BOTTOM = 44, 232
"""Pixels from the upper edge where the largest loss and the zero line are drawn."""
WIDTH = 1000
"""Units along x in the stretched box."""
TRAIN, VALIDATION = "var(--tuned, #4f46e5)", "var(--accent, #d97706)"
LETTER, GAP = 7, 8
"""Pixels: what a digit takes at most, and what is between labels along y and the plot."""
MARKED_POINTS = 80
"""A line with more points than this is drawn without a dot for each."""

Point = tuple[float, float]


def loss_curve_svg(history: Sequence[Mapping[str, float]]) -> str:
    """Training and validation loss over optimizer steps, as one inline SVG; "" when no loss was logged.

    `history` holds dicts with `step` and any of `loss` and `eval_loss`; what is missing or not finite is passed over.
    """
    train, validation = _points(history, "loss"), _points(history, "eval_loss")
    if not train and not validation:
        return ""
    last = max(step for step, _ in train + validation) or 1.0
    top, ticks = _scale(max(loss for _, loss in train + validation))
    labels = [f"{tick:.4g}" for tick in ticks]
    margin = LETTER * max(map(len, labels)) + GAP
    parts = [_lines(top, ticks), _levels(top, ticks, labels), _steps(last)]
    parts += _series(train, last, top, TRAIN, "train")
    parts += _series(validation, last, top, VALIDATION, "validation")
    return (
        f'<svg class="curve" role="img" width="100%" height="{HEIGHT}" font-size="12" '
        f'style="box-sizing: border-box; padding-left: {margin}px; overflow: visible" '
        f'font-family="system-ui, sans-serif" fill="currentColor" aria-label="{_summary(train, validation)}">'
        f"{''.join(parts)}{_legend(bool(train), bool(validation))}</svg>"
    )


def _points(history: Sequence[Mapping[str, float]], key: str) -> list[Point]:
    found = [(row.get("step"), row.get(key)) for row in history]
    return sorted(
        (float(step), float(loss))
        for step, loss in found
        if step is not None and loss is not None and math.isfinite(loss) and math.isfinite(step)
    )


def _scale(highest: float) -> tuple[float, list[float]]:
    """A round number at or above the highest loss, and the grid lines up to it."""
    if highest <= 0:
        return 1.0, [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(highest))
    step = next(power * part for part in (0.25, 0.5, 1.0, 2.5) if highest <= power * part * 5)
    count = math.ceil(highest / step - 1e-9)
    return step * count, [step * index for index in range(count + 1)]


def _y(loss: float, top: float) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * min(max(loss, 0.0) / top, 1.0), 1)


def _lines(top: float, ticks: list[float]) -> str:
    return "".join(
        f'<line x1="0" x2="100%" y1="{_y(tick, top)}" y2="{_y(tick, top)}" stroke="currentColor" '
        f'stroke-opacity="{0.14 if tick else 0.45}"/>'
        for tick in ticks
    )


def _levels(top: float, ticks: list[float], labels: list[str]) -> str:
    """Labels along y, each before its line."""
    return "".join(
        f'<text x="-{GAP}" y="{_y(tick, top) + 4}" text-anchor="end" opacity="0.7">{label}</text>'
        for tick, label in zip(ticks, labels, strict=True)
    )


def _steps(last: float) -> str:
    """Labels along x: start, quarters, end; each a whole step, and where that step is."""
    labels = []
    for quarter, anchor in enumerate(("start", "middle", "middle", "middle", "end")):
        step = round(last * quarter / 4)
        if last >= 4 or quarter in (0, 4):
            place, text = 100 * step / last, f"{step:,}" if quarter else "step 0"
            labels.append(
                f'<text x="{place:.4g}%" y="{BOTTOM + 18}" text-anchor="{anchor}" opacity="0.7">{text}</text>'
            )
    return "".join(labels)


def _series(points: list[Point], last: float, top: float, colour: str, name: str) -> list[str]:
    """The line in the stretched box, and over it dots that tell their numbers to a pointer."""
    if not points:
        return []
    places = " ".join(f"{WIDTH * step / last:.1f},{_y(loss, top)}" for step, loss in points)
    dash = ' stroke-dasharray="5 3"' if name == "validation" else ""
    box = (
        f'<svg width="100%" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none">'
        f'<polyline points="{places}" fill="none" style="stroke: {colour}" stroke-width="2" stroke-linejoin="round"'
        f'{dash} vector-effect="non-scaling-stroke"/></svg>'
    )
    parts = [box]
    if len(points) <= MARKED_POINTS:
        radius = 2.5 if name == "train" else 4
        parts += [
            f'<circle cx="{100 * step / last:.2f}%" cy="{_y(loss, top)}" r="{radius}" style="fill: {colour}">'
            f"<title>step {step:.0f}: {name} loss {loss:.4f}</title></circle>"
            for step, loss in points
        ]
    return parts


def _legend(train: bool, validation: bool) -> str:
    entries = [(TRAIN, "training", "0")] * train + [(VALIDATION, "validation", "5 3")] * validation
    return "".join(
        f'<line x1="{place}" x2="{place + 22}" y1="8" y2="8" style="stroke: {colour}" stroke-width="2.5" '
        f'stroke-dasharray="{dash}"/><text x="{place + 29}" y="12">{text}</text>'
        for place, (colour, text, dash) in zip((0, 110), entries, strict=False)
    )


def _summary(train: list[Point], validation: list[Point]) -> str:
    """What the picture shows, for those who cannot see it."""
    told = [
        f"{name} loss from {points[0][1]:.3f} at step {points[0][0]:.0f} "
        f"to {points[-1][1]:.3f} at step {points[-1][0]:.0f}"
        for name, points in (("training", train), ("validation", validation))
        if points
    ]
    return "Loss curve: " + "; ".join(told)
