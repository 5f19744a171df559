"""Answers a second for benchmarks/gpu.py: batches sorted by length beside one prompt at a time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_training import (
    CHARACTERS_A_TOKEN,
    TEMPLATE_CHARACTERS,
    Shape,
    best_device,
    free,
    random_model,
    synchronise,
    texts,
)

NEW_TOKENS, BATCHES, ALONE = 48, (16, 64, 256), 4
"""Tokens an answer (random weights never end one), prompts together, and prompts asked alone: time grows with them."""


def compare(shape: Shape, rows: Path | None) -> dict[str, Any]:
    """Prompts a second, alone and in batches."""
    model = random_model(shape, 16)
    model.train(mode=False)
    lengths = [
        round((TEMPLATE_CHARACTERS + len(row["context"] + row["question"])) / CHARACTERS_A_TOKEN)
        for row in texts(rows, shape.rows)
    ]
    prompts = [torch.randint(1, shape.vocabulary, (length,)) for length in sorted(lengths, reverse=True)]
    alone = prompts[:: max(1, len(prompts) // ALONE)][:ALONE]
    generate(model, alone[:1])  # warm up
    found: dict[str, Any] = {"alone": speed(model, alone, 1), "batches": {}, "new_tokens": NEW_TOKENS}
    for size in BATCHES:
        if size <= len(prompts):
            some = prompts[: 2 * size]
            found["batches"][str(size)] = speed(model, some, size)
    del model
    free()
    return found


def speed(model: Any, prompts: list[torch.Tensor], size: int) -> float:
    synchronise()
    begun = time.perf_counter()
    for start in range(0, len(prompts), size):
        generate(model, prompts[start : start + size])
    synchronise()
    return len(prompts) / (time.perf_counter() - begun)


def generate(model: Any, prompts: list[torch.Tensor]) -> None:
    """Greedy, padded on the left to the longest."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    for number, prompt in enumerate(prompts):
        ids[number, longest - len(prompt) :] = prompt
    ids = ids.to(best_device())
    with torch.inference_mode():
        model.generate(
            input_ids=ids,
            attention_mask=(ids != 0).long(),
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
        )


def table(found: dict[str, Any]) -> list[str]:
    lines = [f"**generate** ({found['new_tokens']} tokens an answer, 16-bit weights)\n"]
    lines += ["| prompts together | prompts/s | × alone |", "|---|---|---|", f"| 1 | {found['alone']:.2f} | 1.0 |"]
    lines += [f"| {size} | {each:.2f} | {each / found['alone']:.1f} |" for size, each in found["batches"].items()]
    return [*lines, ""]
