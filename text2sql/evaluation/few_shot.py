"""The fair baseline: the base model with solved examples before each question (Brown et al. 2020)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from text2sql.data.chat import chat_prompt
from text2sql.data.contamination import template as shape_of
from text2sql.data.prompt import render_prompt

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_SHORTEST = 4
"""Examples come from the shortest one in so many training rows, so that the question still fits behind them."""


class Examples:
    """Solved training rows, drawn by seed: short ones, and of different shapes where there are enough shapes."""

    def __init__(self, training: Dataset, count: int, seed: int, template: str) -> None:
        self._template = template
        columns = (training[name][:] for name in ("context", "question", "answer"))
        rows = [
            (render_prompt(template, context, question), answer.strip())
            for context, question, answer in zip(*columns, strict=True)
        ]
        self.text = "".join(f"{prompt}{answer}\n\n" for prompt, answer in _drawn(rows, count, seed))

    def before(self, rows: Dataset, chat: PreTrainedTokenizerBase | None = None) -> Dataset:
        """The rows with the examples in front of every `prompt`; in a chat model's template all of it is one turn."""
        texts = [
            self.text + render_prompt(self._template, context, question)
            for context, question in zip(rows["context"], rows["question"], strict=True)
        ]
        prompts = [chat_prompt(chat, text) for text in texts] if chat is not None else texts
        return rows.remove_columns("prompt").add_column("prompt", prompts)


def _drawn(rows: list[tuple[str, str]], count: int, seed: int) -> list[tuple[str, str]]:
    short = sorted(rows, key=lambda row: (len(row[0]) + len(row[1]), row))
    short = short[: max(len(short) // _SHORTEST, count)]
    random.Random(seed).shuffle(short)
    shapes: set[str] = set()
    chosen: list[tuple[str, str]] = []
    for row in short:
        shape = shape_of(row[1])
        if len(chosen) < count and shape not in shapes:
            shapes.add(shape)
            chosen.append(row)
    return chosen + [row for row in short if row not in chosen][: count - len(chosen)]
