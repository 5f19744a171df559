"""How sure figures are: 95% bootstrap intervals, and McNemar's exact test between systems.

Intervals are those of the percentile bootstrap (Efron 1979): rows are drawn with replacement, as many as there are, and
the figure is taken of each draw; the interval holds the middle 95% of them. The draws depend on the number of rows and
of resamples alone, so that all figures of all systems on the same rows are taken of the same draws.

Sums over draws are exact, whatever the order in which they are added: values are rounded to multiples of a power of
two that is small enough for float64 to hold every sum. The same rows give the same digits on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from text2sql.evaluation.likeness import BLEU_SUMS, bleu_of, bleu_rows, rouge_l_rows
from text2sql.evaluation.types import Comparison, Interval, RowScore, TokenLoss

VERDICTS = {
    "execution_accuracy": "executed",
    "exact_match": "exact",
    "exact_match_without_values": "exact_without_values",
    "valid_sql": "valid",
    "schema_adherence": "adheres",
    "vacuous": "vacuous",
}
"""Figures that are shares of rows, with the field of RowScore that they count."""
SHARES = (*VERDICTS, "rouge_l")
"""Figures that are means over rows."""

_SEED = 0
_CELLS = 1 << 20
"""Draws held in memory at once, 8 bytes each, three times over."""
_TAIL = 2.5
_MAX_EXPONENT = 700.0
"""e^700 is about the largest float."""

Floats = npt.NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class RowFigures:
    """What one system's figures are taken of: a line a row."""

    shares: Floats
    """(rows, len(SHARES)): 0 to 1 each."""
    overlaps: Floats
    """(rows, BLEU_SUMS): what BLEU adds up."""
    losses: Sequence[TokenLoss] | None
    """None where the source of the answers cannot tell."""

    @classmethod
    def of(
        cls,
        rows: Sequence[RowScore],
        predictions: Sequence[str],
        golds: Sequence[str],
        losses: Sequence[TokenLoss] | None,
    ) -> RowFigures:
        """Of verdicts, answers, golds and losses, parallel to each other."""
        columns = [[float(getattr(row, field)) for row in rows] for field in VERDICTS.values()]
        columns.append(rouge_l_rows(predictions, golds))
        overlaps = np.array(bleu_rows(predictions, golds), dtype=np.float64)
        return cls(np.array(columns, dtype=np.float64).T, overlaps.reshape(-1, BLEU_SUMS), losses)

    def at(self, places: Sequence[int]) -> RowFigures:
        """Of some of the rows."""
        losses = None if self.losses is None else [self.losses[place] for place in places]
        return RowFigures(self.shares[places], self.overlaps[places], losses)

    def summary(self, resamples: int) -> tuple[dict[str, float], dict[str, Interval]]:
        """Every figure, and its 95% interval, by the keys of text2sql.evaluation.figures.FIGURES.

        Over no rows figures are 0, and have no intervals; there is no perplexity without losses, and no interval of one
        that is not finite.
        """
        figures = {figure: mean(self.shares[:, i].tolist()) for i, figure in enumerate(SHARES)}
        figures["bleu"] = bleu_of(self.overlaps.sum(axis=0)) if len(self.overlaps) else 0.0
        if self.losses is not None:
            figures["perplexity"] = perplexity(self.losses)
        return figures, self._intervals(resamples) if len(self.shares) else {}

    def _intervals(self, resamples: int) -> dict[str, Interval]:
        spent = np.array([[loss.total, loss.tokens] for loss in self.losses or []], dtype=np.float64).reshape(-1, 2)
        if not np.isfinite(spent).all():
            spent = spent[:0]
        sums = resampled_sums(np.hstack([self.shares, self.overlaps, *([spent] if len(spent) else [])]), resamples)
        intervals = {figure: middle(sums[:, i] / len(self.shares)) for i, figure in enumerate(SHARES)}
        bleu_sums = sums[:, len(SHARES) : len(SHARES) + BLEU_SUMS]
        intervals["bleu"] = middle(np.array([bleu_of(drawn) for drawn in bleu_sums]))
        if len(spent):
            intervals["perplexity"] = middle(_perplexities(sums[:, -2], sums[:, -1]))
        return intervals


def mean_intervals(columns: Mapping[Key, Sequence[float]], resamples: int) -> dict[Key, Interval]:
    """95% intervals of the means of columns of equal length; none for no rows."""
    count = len(next(iter(columns.values()), ()))
    if not count:
        return {}
    sums = resampled_sums(np.array([list(values) for values in columns.values()], dtype=np.float64).T, resamples)
    return {name: middle(sums[:, i] / count) for i, name in enumerate(columns)}


def compare(system: str, other: str, right_a: Sequence[bool], right_b: Sequence[bool], resamples: int) -> Comparison:
    """Execution accuracy of `system`, right on the rows `right_a`, against that of `other` on the same rows.

    Raises:
        ValueError: they were not judged on equally many rows.
    """
    pairs = list(zip(right_a, right_b, strict=True))
    only_a, only_b = pairs.count((True, False)), pairs.count((False, True))
    differences = [float(a) - float(b) for a, b in pairs]
    return Comparison(
        system=system,
        other=other,
        difference=mean(differences),
        interval=mean_intervals({"": differences}, resamples).get("", (0.0, 0.0)),
        only_system=only_a,
        only_other=only_b,
        p_value=mcnemar_exact(only_a, only_b),
    )


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided p-value of McNemar's test in its exact, binomial form (McNemar 1947): twice the smaller tail.

    How likely a split at least as uneven is if each of the rows on which two systems differ were the toss of a coin.
    """
    tosses = only_a + only_b
    term = tail = 1  # C(n, 0), and the sum of C(n, i) up to the smaller count: integers, so nothing is rounded
    for i in range(min(only_a, only_b)):
        term = term * (tosses - i) // (i + 1)
        tail += term
    return 1.0 if 2 * tail >= 1 << tosses else 2 * tail / (1 << tosses)


def mean(values: Sequence[float]) -> float:
    """Their mean, correctly rounded sum; 0 for none."""
    return math.fsum(values) / len(values) if values else 0.0


def perplexity(losses: Sequence[TokenLoss]) -> float:
    """exp(loss a token) over all tokens of all rows; 1 for no tokens."""
    tokens = sum(loss.tokens for loss in losses)
    return math.exp(min(math.fsum(loss.total for loss in losses) / max(tokens, 1), _MAX_EXPONENT))


def middle(drawn: Floats) -> Interval:
    """Ends of the middle 95% of what resamples gave."""
    low, high = np.percentile(drawn, [_TAIL, 100.0 - _TAIL])
    return float(low), float(high)


def resampled_sums(columns: Floats, resamples: int) -> Floats:
    """Sums over rows drawn with replacement: (rows, k) values to (resamples, k) sums, exact for rounded values."""
    count = len(columns)
    grid = _grid(columns)
    values = np.round(columns * grid)
    sums = np.empty((resamples, columns.shape[1]))
    generator = np.random.default_rng(_SEED)
    batch = max(_CELLS // count, 1)
    for start in range(0, resamples, batch):
        size = min(batch, resamples - start)
        drawn = generator.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        sums[start : start + size] = times.astype(np.float64) @ values
    return sums / grid


def _grid(columns: Floats) -> Floats:
    """By column, the power of two to multiply by, so that the largest sum still has all its bits in a float64."""
    largest = len(columns) * np.abs(columns).max(axis=0, initial=0.0)
    grid: Floats = np.exp2(52.0 - np.ceil(np.log2(np.maximum(largest, 1.0))))
    return grid


def _perplexities(totals: Floats, tokens: Floats) -> Floats:
    mean_losses: Floats = np.minimum(totals / np.maximum(tokens, 1.0), _MAX_EXPONENT)
    return np.exp(mean_losses)
