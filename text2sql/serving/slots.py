"""A key-value cache of slots: rows come and go between steps, and nobody else's row moves.

Every row starts at position 0 of its slot and is padded on the right, so rows of any length share a batch without
shifting, and a step writes one position a row instead of copying the whole cache as a concatenating cache does.
What stands right of a row's length is stale; the mask hides it. A step that failed half-way can be repeated: it
writes the same positions again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

WIDTH_STEP = 128
"""Slots grow in width by multiples of this."""


def rounded(width: int) -> int:
    """The width that a slot for `width` tokens gets."""
    return -(-width // WIDTH_STEP) * WIDTH_STEP


@dataclass
class Window:
    """Which slots the next forward pass is about; shared by the layers."""

    first: int = 0
    rows: int = 0
    positions: torch.Tensor | None = None
    """Where each row writes its one token, shape (rows,); None while whole prompts are written from position 0."""
    width: int = 0
    """Positions that the rows look at."""


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, shape (slots, heads, width, head size)."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, window: Window) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.window = window
        self.capacity = (0, 0)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        # Zeros, not whatever the memory held: a masked position weighs 0, and 0 · NaN is NaN.
        slots, width = self.capacity
        self.keys, self.values = (
            states.new_zeros((slots, states.shape[1], width, states.shape[3])) for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self.window
        rows = slice(window.first, window.first + window.rows)
        if window.positions is None:
            width = key_states.shape[2]
            self.keys[rows, :, :width] = key_states
            self.values[rows, :, :width] = value_states
            return key_states, value_states
        keys, values = self.keys[rows], self.values[rows]
        index = torch.arange(window.rows, device=keys.device)
        keys[index, :, window.positions] = key_states[:, :, 0]
        values[index, :, window.positions] = value_states[:, :, 0]
        return keys[:, :, : window.width], values[:, :, : window.width]

    def resize(self, slots: int, width: int, used: int) -> None:
        """Room for `slots` rows of `width`; the first `used` rows are kept."""
        self.capacity = (slots, width)
        if self.is_initialized:
            kept = min(width, self.keys.shape[2])
            for name in ("keys", "values"):
                old: torch.Tensor = getattr(self, name)
                new = old.new_zeros((slots, old.shape[1], width, old.shape[3]))
                new[:used, :, :kept] = old[:used, :, :kept]
                setattr(self, name, new)

    def release(self) -> None:
        self.keys = self.values = None  # type: ignore[assignment]
        self.is_initialized = False

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """The slots of all layers. Rows are the first slots, without gaps."""

    def __init__(self, layers: int) -> None:
        self.window = Window()
        self._slot_layers = [SlotLayer(self.window) for _ in range(layers)]
        super().__init__(layers=[*self._slot_layers])
        self.slots = self.width = 0

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
        for layer in self._slot_layers:
            layer.resize(slots, width, used)
        self.slots, self.width = slots, width  # not before: memory may run out half-way, and that is tried again

    def shrink(self, slots: int) -> None:
        """Give back what more than `slots` rows need; the first `slots` are kept."""
        self.slots = slots
        for layer in self._slot_layers:
            layer.resize(slots, self.width, slots)

    def release(self) -> None:
        """Give all memory back; no row is left."""
        self.slots = self.width = 0
        for layer in self._slot_layers:
            layer.release()

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot to another."""
        for layer in self._slot_layers:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]

    def clear(self, slot: int) -> None:
        """Overwrite a slot that holds something not finite: zero times NaN is NaN, mask or no mask."""
        for layer in self._slot_layers:
            if layer.is_initialized:
                layer.keys[slot].zero_()
                layer.values[slot].zero_()
