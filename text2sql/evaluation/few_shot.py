"""The fair baseline: the base model with solved examples before each question (Brown et al. 2020)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

_SHORTEST = 4
"""Examples come from the shortest one in so many training rows, so that the question still fits behind them."""


def with_examples(rows: Dataset, training: Dataset, count: int, seed: int) -> Dataset:
    """The rows with `count` solved training rows in front of every `prompt`, the same for all, drawn by seed.

    No example asks for what another one does: their golds differ in shape where there are enough shapes.
    """
    shown = "".join(f"{prompt}{completion}\n\n" for prompt, completion in _drawn(training, count, seed))
    prompts = [shown + prompt for prompt in rows["prompt"]]
    return rows.remove_columns("prompt").add_column("prompt", prompts)


def _drawn(training: Dataset, count: int, seed: int) -> list[tuple[str, str]]:
    from text2sql.data.contamination import template

    pairs = list(zip(training["prompt"][:], training["completion"][:], strict=True))
    short = sorted(range(len(pairs)), key=lambda i: (len(pairs[i][0]) + len(pairs[i][1]), i))
    short = short[: max(len(short) // _SHORTEST, count)]
    random.Random(seed).shuffle(short)
    shapes: set[str] = set()
    chosen: list[int] = []
    for i in short:
        shape = template(pairs[i][1])
        if len(chosen) < count and shape not in shapes:
            shapes.add(shape)
            chosen.append(i)
    chosen += [i for i in short if i not in chosen][: count - len(chosen)]
    return [pairs[i] for i in chosen]
