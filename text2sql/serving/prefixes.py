"""Beginnings of prompts that were read before, a template and a schema above all, and need not be read again.

Keys and values of a prompt are kept in blocks; a block is known by its tokens and by the block before it, and the first
by the salt (the scheme of vLLM's prefix cache, with the tokens themselves instead of their hash). Requests of different
salts share nothing, so that how long an answer takes does not tell one client what another has asked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

BLOCK = 16
"""Tokens of a block: what follows a prompt's last whole block is read anew."""

States = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""Keys and values by layer, shape (tokens, heads, head size)."""
_Key = tuple[str | int | None, tuple[int, ...]]


class PrefixCache:
    """Bounded: what was not used for the longest time makes room."""

    def __init__(self, most_tokens: int) -> None:
        self._most = most_tokens // BLOCK
        self._known: OrderedDict[_Key, tuple[int, int]] = OrderedDict()
        """A block's key → its place in the pools, and a number of its own for ever, which its children name."""
        self._numbers = 0
        self._pools: States = {}

    def match(self, salt: str | None, tokens: Sequence[int]) -> list[int]:
        """Places of the blocks that these tokens begin with."""
        return [self._known[key][0] for key in self._path(salt, tokens)]

    @staticmethod
    def tokens(places: list[int]) -> int:
        """How many tokens so many blocks are."""
        return len(places) * BLOCK

    def load(self, places: list[int], states: States) -> None:
        """Write blocks to the beginning of a slot."""
        for layer, pair in states.items():
            for pool, slot in zip(self._pools[layer], pair, strict=True):
                slot[: self.tokens(places)] = pool[places].flatten(0, 1)

    def store(self, salt: str | None, tokens: Sequence[int], states: States) -> None:
        """Keep the whole blocks of a slot that holds these tokens."""
        path = self._path(salt, tokens)
        whole = min(len(tokens) // BLOCK, self._most)
        begun = len(path)
        places = []
        parent: str | int | None = self._known[path[-1]][1] if path else salt
        for block in range(begun, whole):
            if len(self._known) == self._most:
                place, _ = self._known.popitem(last=False)[1]
            else:
                place = len(self._known)
            key = (parent, tuple(tokens[block * BLOCK : (block + 1) * BLOCK]))
            self._numbers += 1
            parent = self._numbers
            self._known[key] = place, parent
            path.append(key)
            places.append(place)
        for key in reversed(path):  # a beginning outlives what follows it
            self._known.move_to_end(key)
        if places:
            self._write(places, slice(begun * BLOCK, whole * BLOCK), states)

    def release(self) -> None:
        """Forget everything, and give the memory back."""
        self._known.clear()
        self._pools = {}

    def _path(self, salt: str | None, tokens: Sequence[int]) -> list[_Key]:
        path: list[_Key] = []
        parent: str | int | None = salt
        for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
            key = (parent, tuple(tokens[start : start + BLOCK]))
            found = self._known.get(key)
            if found is None:
                break
            path.append(key)
            parent = found[1]
        for key in reversed(path):
            self._known.move_to_end(key)
        return path

    def _write(self, places: list[int], of: slice, states: States) -> None:
        for layer, pair in states.items():
            if layer not in self._pools:
                keys, values = (slot.new_empty((self._most, BLOCK, *slot.shape[1:])) for slot in pair)
                self._pools[layer] = keys, values
            for pool, slot in zip(self._pools[layer], pair, strict=True):
                pool[places] = slot[of].reshape(-1, BLOCK, *slot.shape[1:])
