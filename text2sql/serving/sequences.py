"""One completion in the making: its tokens, its own random numbers, and its text as it grows."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from text2sql.serving.engine import Completion, FinishReason, Options

REPLACEMENT = "\ufffd"
"""What an unfinished UTF-8 character decodes to."""


@dataclass(eq=False)
class Sequence:
    """What the scheduler knows of one completion."""

    prompt: list[int]
    options: Options
    owner: Any
    """For the engine: whom to tell."""
    index: int = 0
    """Which of the owner's completions; candidates of one prompt draw different numbers."""
    streamed: bool = False
    tokens: list[int] = field(default_factory=list)
    read: int = 0
    """Of prompt and tokens, those whose keys and values are in the cache."""
    cancelled: bool = False
    started: float = 0.0
    """When it was admitted, by time.monotonic()."""

    def __post_init__(self) -> None:
        self._seed = random.getrandbits(64) if self.options.seed is None else self.options.seed
        self._emitted = 0

    @property
    def length(self) -> int:
        """Tokens whose keys and values a forward pass for the next one needs."""
        return len(self.prompt) + len(self.tokens)

    @property
    def longest(self) -> int:
        """What `length` can become."""
        return len(self.prompt) + self.options.max_new_tokens

    def slice(self, start: int, end: int) -> list[int]:
        """Prompt and tokens from one position to another."""
        border = len(self.prompt)
        return self.prompt[start:end] + self.tokens[max(start - border, 0) : max(end - border, 0)]

    def draw(self) -> float:
        """This sequence's own number for its next token, in [0, 1); the same when it is asked again."""
        return random.Random(f"{self._seed}:{self.index}:{len(self.tokens)}").random()

    def append(self, token: int, tokenizer: PreTrainedTokenizerBase, ends: set[int]) -> tuple[str, Completion | None]:
        """Take one more token: the text to stream now, and the completion if this was its last token."""
        self.started = self.started or time.monotonic()
        self.tokens.append(token)
        options = self.options
        reason: FinishReason | None = None
        if token in ends:
            reason = "stop"
        elif len(self.tokens) >= options.max_new_tokens:
            reason = "length"
        if reason is None and not self.streamed and not options.stop:
            return "", None
        text = str(tokenizer.decode(self.tokens, skip_special_tokens=True))
        found = [at for at in (text.find(stop) for stop in options.stop) if at >= 0]
        if found:
            text, reason = text[: min(found)], "stop"
        if reason is None:
            return self._more(stable_text(text, options.stop)), None
        text = text.strip()
        completion = Completion(text, len(self.prompt), len(self.tokens), reason)
        return self._more(text), completion

    def _more(self, text: str) -> str:
        if not self.streamed:
            return ""
        more = text[self._emitted :]
        self._emitted = max(self._emitted, len(text))
        return more


def stable_text(text: str, stops: tuple[str, ...]) -> str:
    """What no later token can take back: without an unfinished character, the beginning of a stop text, outer space."""
    text = text.rstrip(REPLACEMENT)
    held = 0
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), held, -1):
            if text.endswith(stop[:size]):
                held = size
                break
    return text[: len(text) - held].strip()
