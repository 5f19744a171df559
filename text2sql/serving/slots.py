"""Keys and values of the rows that are decoded together, and attention over them.

Every row has a slot and starts at its position 0, so rows of any length share a batch without shifting, and a step
writes a row's new positions instead of copying its past. What stands right of a row's length is stale, and the mask
hides it: a step that failed half-way can be repeated, and draft tokens that were refused need no undoing.

A forward pass reads the new tokens of all rows as one line without padding (Yu et al. 2022, Orca: only attention has to
know the rows apart). transformers' AttentionInterface lets the model call `slot_attention` for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from text2sql.errors import ModelError

WIDTH_STEP = 128
"""Slots grow in width by multiples of this."""
SHORT = 8
"""Runs up to this length attend together, padded to the longest of them; longer ones attend one by one."""
ATTENTION = "text2sql_slots"


def rounded(width: int) -> int:
    """The width that a slot for `width` tokens gets."""
    return -(-width // WIDTH_STEP) * WIDTH_STEP


class Run(NamedTuple):
    """New tokens of one row: which slot, from which position on."""

    slot: int
    start: int
    tokens: int

    @property
    def end(self) -> int:
        return self.start + self.tokens


@dataclass
class _Short:
    """Queries (rows, columns) that attend together to slots first … first + rows."""

    first: int
    rows: int
    columns: int
    keys: int
    """Positions that they look at."""
    mask: torch.Tensor
    """Added to the scores: 0 where a key is visible, else -inf; shape (rows, 1, columns, keys)."""
    at: torch.Tensor | None
    """Where in the line each of their tokens stands; None: they are the whole line."""
    place: torch.Tensor | None
    """Where in rows · columns it goes; None: there is one column, and each row has it."""


class _Long(NamedTuple):
    run: Run
    line: slice
    mask: torch.Tensor | None
    """As above, shape (tokens, keys); None: from position 0 on, so that plain causal attention does."""


class Layout:
    """Where the tokens of one forward pass go, and what they see; the same for all layers."""

    def __init__(self, runs: Sequence[Run], width: int, device: torch.device, dtype: torch.dtype) -> None:
        self.write = torch.tensor([r.slot * width + at for r in runs for at in range(r.start, r.end)], device=device)
        self.long: list[_Long] = []
        short: list[tuple[Run, int]] = []
        at = 0
        for run in runs:
            if run.tokens > SHORT:
                self.long.append(_Long(run, slice(at, at + run.tokens), self._causal(run, device, dtype)))
            else:
                short.append((run, at))
            at += run.tokens
        self.short = self._together(short, device, dtype) if short else None

    @staticmethod
    def _causal(run: Run, device: torch.device, dtype: torch.dtype) -> torch.Tensor | None:
        if run.start == 0:
            return None
        return _mask(torch.arange(run.start, run.end, device=device)[:, None], run.end, dtype)

    def _together(self, runs: list[tuple[Run, int]], device: torch.device, dtype: torch.dtype) -> _Short:
        first, last = min(run.slot for run, _ in runs), max(run.slot for run, _ in runs)
        rows, columns = last - first + 1, max(run.tokens for run, _ in runs)
        keys = max(run.end for run, _ in runs)
        # A query that is none, between the runs and behind their ends, looks at position 0, lest its softmax be NaN.
        sees = [[0] * columns for _ in range(rows)]
        for run, _ in runs:
            sees[run.slot - first][: run.tokens] = range(run.start, run.end)
        at = place = None
        if self.long:
            at = torch.tensor([start + column for run, start in runs for column in range(run.tokens)], device=device)
        if columns > 1 or [run.slot for run, _ in runs] != list(range(first, last + 1)):
            places = [(run.slot - first) * columns + column for run, _ in runs for column in range(run.tokens)]
            place = torch.tensor(places, device=device)
        mask = _mask(torch.tensor(sees, device=device)[:, None, :, None], keys, dtype)
        return _Short(first, rows, columns, keys, mask, at, place)


def _mask(last: torch.Tensor, keys: int, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the scores of queries that see keys up to their `last`, shape (…, 1)."""
    hidden = torch.arange(keys, device=last.device) > last
    return torch.zeros(hidden.shape, dtype=dtype, device=last.device).masked_fill_(hidden, -torch.inf)


class SlotCache:
    """The slots of all layers. Rows are the first slots, without gaps."""

    def __init__(self) -> None:
        self.slots = self.width = 0
        self.layout: Layout | None = None
        """Of the next forward pass."""
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        """Keys and values of each layer, shape (slots, width, heads, head size)."""

    def ensure(self, slots: int, width: int, used: int, most_tokens: int) -> None:
        """Room for `slots` rows of `width` tokens, none of which has more now; `used` rows are in it.

        Slots double as long as slots times width stay within `most_tokens`.
        """
        if slots <= self.slots and width <= self.width:
            return
        needed = rounded(width)
        width = max(self.width, needed)
        if slots * width > most_tokens:  # a long row that has left must not widen those that come
            width = needed
        wanted = self.slots if slots <= self.slots else 2 * self.slots
        slots = max(slots, min(wanted, most_tokens // width))
        self._resize(slots, width, used)

    def shrink(self, slots: int) -> None:
        """Give back what more than `slots` rows need; the first `slots` are kept."""
        self._resize(slots, self.width, slots)

    def _resize(self, slots: int, width: int, used: int) -> None:
        used, kept = min(used, self.slots), min(width, self.width)

        def resized(old: torch.Tensor) -> torch.Tensor:
            # Zeros, not whatever the memory held: a masked position weighs 0, and 0 · NaN is NaN.
            new = old.new_zeros((slots, width, *old.shape[2:]))
            new[:used, :kept] = old[:used, :kept]
            return new

        # Not before all are there: memory may run out half-way, and that is tried again.
        self._layers = {layer: (resized(keys), resized(values)) for layer, (keys, values) in self._layers.items()}
        self.slots, self.width = slots, width

    def release(self) -> None:
        """Give all memory back; no row is left."""
        self._resize(0, 0, 0)
        self.layout = None

    def move(self, source: int, target: int, start: int, end: int) -> None:
        """Copy positions of one slot to another."""
        for pair in self._layers.values():
            for states in pair:
                states[target, start:end] = states[source, start:end]

    def clear(self, slot: int, start: int = 0) -> None:
        """Overwrite what is not finite: zero times NaN is NaN, mask or no mask."""
        for pair in self._layers.values():
            for states in pair:
                states[slot, start:] = 0

    def states(self, slot: int) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of a slot by layer, shape (width, heads, head size); views to read and to write."""
        return {layer: (keys[slot], values[slot]) for layer, (keys, values) in self._layers.items()}

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        """Write the line's keys and values, shape (tokens, heads, head size), and answer its queries."""
        assert self.layout is not None  # noqa: S101 - for the type checker
        layout = self.layout
        if layer not in self._layers:
            shape = (self.slots, self.width, key.shape[1])
            self._layers[layer] = (key.new_zeros((*shape, key.shape[2])), value.new_zeros((*shape, value.shape[2])))
        keys, values = self._layers[layer]
        keys.flatten(0, 1).index_copy_(0, layout.write, key)
        values.flatten(0, 1).index_copy_(0, layout.write, value)
        short = layout.short
        if short is not None and not layout.long:
            return self._attend_together(short, query, keys, values, scale)
        out = query.new_empty((*query.shape[:2], value.shape[2]))
        if short is not None:
            assert short.at is not None  # noqa: S101
            found = self._attend_together(short, query.index_select(0, short.at), keys, values, scale)
            out.index_copy_(0, short.at, found)
        for run, line, mask in layout.long:
            row = slice(run.slot, run.slot + 1)
            out[line] = _attention(query[None, line], keys[row, : run.end], values[row, : run.end], mask, scale)[0]
        return out

    @staticmethod
    def _attend_together(
        short: _Short, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        rows = slice(short.first, short.first + short.rows)
        if short.place is not None:
            padded = query.new_zeros((short.rows * short.columns, *query.shape[1:]))
            query = padded.index_copy_(0, short.place, query)
        query = query.view(short.rows, short.columns, *query.shape[1:])
        found = _attention(query, keys[rows, : short.keys], values[rows, : short.keys], short.mask, scale).flatten(0, 1)
        return found if short.place is None else found.index_select(0, short.place)


def _attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> torch.Tensor:
    """Queries (rows, columns, heads, head size) to keys and values (rows, width, heads, head size).

    Query heads that share a key-value head stand in line as further queries, so that keys and values need no copies.
    """
    rows, columns, heads, size = query.shape
    mask = mask if mask is None else mask.to(query.dtype)  # a model's parts may have other types than its first
    shared = heads // keys.shape[2]
    if shared == 1 or mask is None:
        query = query.transpose(1, 2)
    else:
        query = query.reshape(rows, columns, -1, shared, size).permute(0, 2, 3, 1, 4).flatten(2, 3)
        mask = mask.expand(rows, 1, columns, mask.shape[-1]).repeat(1, 1, shared, 1)
    out = scaled_dot_product_attention(
        query,
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=shared > 1 and mask is None,
    )
    if shared == 1 or mask is None:
        return out.transpose(1, 2)
    return out.reshape(rows, -1, shared, columns, out.shape[-1]).permute(0, 3, 1, 2, 4).flatten(2, 3)


def slot_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - the layout knows
    scaling: float | None = None,
    slots: SlotCache | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """For transformers: query, key and value have shape (1, heads, tokens, head size)."""
    if slots is None or softcap is not None or s_aux is not None:
        raise ModelError("this model's attention is of a kind that is not served here; serve it with vLLM")
    layer: Any = module.layer_idx
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    return slots.attend(layer, query, key, value, scaling)[None], None


def use_slots(model: PreTrainedModel) -> None:
    """Let a model attend by slots: it must be called with `slots=` from now on.

    Raises:
        ModelError: it does not let its attention be chosen.
    """
    AttentionInterface.register(ATTENTION, slot_attention)
    model.set_attn_implementation(ATTENTION)
    if model.config.get_text_config()._attn_implementation != ATTENTION:  # noqa: SLF001 - it only warns
        raise ModelError(f"{type(model).__name__} does not let its attention be chosen; serve it with vLLM")
