"""Guesses at the next tokens, from what was read and written before: SQL copies from its schema, and repeats itself.

A guess costs little to check, since a forward pass of a few rows takes hardly longer for a few tokens more, and only a
guess that equals the greedy choice is taken (prompt lookup, Saxena 2023; here with the answers to earlier questions).
Whoever sends another salt is not served from it: time must not tell what others ask.
"""

from __future__ import annotations

from collections import OrderedDict

from text2sql.serving.sequences import Sequence

KEPT = 100_000
"""Contexts that are remembered."""


class Drafts:
    """After which three tokens which one came last."""

    before = 3

    def __init__(self, most: int) -> None:
        """`most`: tokens that are guessed ahead."""
        self._most = most
        self._next: OrderedDict[tuple[str | None, int, int, int], int] = OrderedDict()

    def learn(self, salt: str | None, tokens: list[int]) -> None:
        """Remember what follows what."""
        if not self._most:
            return
        for at in range(len(tokens) - self.before):
            first, second, third, after = tokens[at : at + 4]
            self._next[salt, first, second, third] = after
        while len(self._next) > KEPT:
            self._next.popitem(last=False)

    def propose(self, sequence: Sequence) -> list[int]:
        """Tokens that may come next, none that the sequence has no room for; drawn answers cannot be guessed."""
        options = sequence.options
        most = min(self._most, sequence.longest - sequence.length - 1) if options.temperature == 0 else 0
        found: list[int] = []
        context = sequence.slice(max(sequence.length - self.before, 0), sequence.length)
        while len(found) < most and len(context) == self.before:
            after = self._next.get((options.cache_salt, *context))  # type: ignore[arg-type]
            if after is None:
                break
            found.append(after)
            context = [*context[1:], after]
        return found
