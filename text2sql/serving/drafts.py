"""Guesses at the next tokens, from what was read and written before: SQL copies from its schema, and repeats itself.

A guess costs little to check, since a forward pass of a few rows takes hardly longer for a few tokens more, and only a
guess that equals the greedy choice is taken (prompt lookup, Saxena 2023; here with the answers to earlier questions).
The longest context that is known decides, and a shorter one where that has no clear answer (prediction by partial
matching, Cleary and Witten 1984). Whoever sends another salt is not served from it: time must not tell what others ask.
"""

from __future__ import annotations

from collections import OrderedDict

from text2sql.serving.sequences import Sequence

KEPT = 200_000
"""Contexts that are remembered, of all salts together; some 260 bytes each."""
CONTEXTS = (8, 4, 3, 2, 1)
"""Tokens of each context, the longest first."""
LEAD = 0.2
"""Share of what followed a context by which the guess must lead the vote; it bounds how often it was right."""


class Drafts:
    """After which tokens which one comes."""

    context = max(CONTEXTS)

    def __init__(self, most: int) -> None:
        """`most`: tokens that are guessed ahead."""
        self._most = most
        self._known: OrderedDict[tuple[str | int | None, ...], tuple[int, int, int]] = OrderedDict()
        """Salt and context → the token that leads, by how much, and of how many (Boyer and Moore's vote, 1981)."""

    def learn(self, salt: str | None, tokens: list[int], start: int = 0) -> None:
        """Remember what the tokens from `start` on follow, some 8 µs each."""
        if not self._most:
            return
        for before in CONTEXTS:
            for at in range(max(start, before), len(tokens)):
                key, token = (salt, *tokens[at - before : at]), tokens[at]
                leader, lead, seen = self._known.get(key, (token, 0, 0))
                lead += 1 if token == leader else -1
                self._known[key] = (leader, lead, seen + 1) if lead > 0 else (token, 1, seen + 1)
                self._known.move_to_end(key)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)

    def propose(self, sequence: Sequence) -> list[int]:
        """Tokens that may come next, none that the sequence has no room for; drawn answers cannot be guessed."""
        options = sequence.options
        most = min(self._most, sequence.longest - sequence.length - 1) if options.temperature == 0 else 0
        found: list[int] = []
        context = sequence.slice(max(sequence.length - self.context, 0), sequence.length) if most > 0 else []
        while len(found) < most:
            token = self._after(options.cache_salt, context)
            if token is None:
                break
            found.append(token)
            context = [*context, token]
        return found

    def _after(self, salt: str | None, context: list[int]) -> int | None:
        for before in CONTEXTS:
            if before <= len(context):
                key = (salt, *context[-before:])
                token, lead, seen = self._known.get(key, (0, 0, 1))
                if lead >= LEAD * seen:
                    self._known.move_to_end(key)  # what is of use stays
                    return token
        return None
