"""The next token of each row: the likeliest, or one drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from text2sql.serving.batch import Turn
    from text2sql.serving.sequences import Sequence


class Chosen(NamedTuple):
    """What a step brings a sequence."""

    tokens: list[int | None]
    """Its next token, and those after drafts that were right; None: the numbers are not finite."""
    finite: bool
    """Whether all numbers are, those after drafts that were refused as well."""


def choose(logits: torch.Tensor, turns: list[Turn]) -> list[Chosen]:
    """The next tokens for each turn from logits (·, vocabulary)."""
    best, likeliest = logits.max(-1)  # NaN is larger than any number
    tokens: list[int | None] = [
        token if fine else None for token, fine in zip(likeliest.tolist(), best.isfinite().tolist(), strict=True)
    ]
    found = [_without_refused(tokens[turn.logits], turn.drafts) for turn in turns]
    drawing = [
        place
        for place, turn in enumerate(turns)
        if turn.sequence.options.temperature > 0 and found[place].tokens not in ([], [None])
    ]
    if drawing:
        rows = [turns[place].logits.start for place in drawing]
        drawn = draw(logits[rows], [turns[place].sequence for place in drawing])
        for place, token in zip(drawing, drawn, strict=True):
            found[place] = Chosen([token], found[place].finite)
    return found


def _without_refused(tokens: list[int | None], drafts: list[int]) -> Chosen:
    right = next((at for at, draft in enumerate(drafts) if tokens[at] != draft), len(drafts))
    return Chosen(tokens[: right + 1], None not in tokens)


def draw(logits: torch.Tensor, sequences: list[Sequence]) -> list[int]:
    """A token for each sequence from its logits (sequences, vocabulary), by its options.

    A draw inverts the cumulative distribution at the sequence's own number, so that it does not depend on who else is
    in the batch.
    """
    device = logits.device
    temperature = torch.tensor([sequence.options.temperature for sequence in sequences], device=device)
    top_p = torch.tensor([sequence.options.top_p for sequence in sequences], device=device)
    number = torch.tensor([sequence.draw() for sequence in sequences], device=device, dtype=torch.float64)
    scaled = logits.float() / temperature[:, None].clamp(min=1e-5)
    shares, order = scaled.softmax(-1).double().sort(dim=-1, descending=True, stable=True)
    total = shares.cumsum(-1)
    shares = shares.where(total - shares < top_p[:, None], torch.zeros_like(shares))  # the first stays in any case
    total = shares.cumsum(-1)
    at = torch.searchsorted(total, (number * total[:, -1])[:, None], right=True).clamp(max=total.shape[1] - 1)
    return [int(token) for token in order.gather(1, at)[:, 0].tolist()]
