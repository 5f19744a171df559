"""Answers of an evaluation: batches of like length, against one `generate` at a time.

    PYTHONPATH=. python benchmarks/generation.py [--model FOLDER] [--rows 96] [--rounds 3] [--batch-size 32]

Same model, rows, precision and tokens at most. The peer calls transformers' `generate` for each prompt, as tutorials
have it, with torch's own number of threads and with one; the faster of a round counts. Ours is what `evaluate` does.
Rounds alternate, and the median of their ratios counts. The claim: at least 5 times, and the same answers (where a GPU
computes in bf16, ties may be broken differently; the share is printed).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
CONFIG = PROJECT / "configs" / "tiny.yaml"
CLAIM = 5.0
Answers = Callable[[list[str]], list[str]]


def one_at_a_time(model: Any, tokenizer: Any, tokens: int, threads: int) -> Answers:
    """The peer, with so many torch threads."""
    import torch

    def answers(prompts: list[str]) -> list[str]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        texts = []
        for prompt in prompts:
            inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
            with torch.inference_mode():
                out = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
            texts.append(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
        torch.set_num_threads(before)
        return texts

    return answers


def test_prompts(count: int) -> list[str]:
    """Of the embedded default's test rows."""
    from text2sql.config_file import load_settings
    from text2sql.data.load import load_rows
    from text2sql.data.prompt import render_prompt

    settings = load_settings(CONFIG, [f"data.synthetic.rows={count}", "data.synthetic.profile=base"])
    rows = load_rows(settings.data)
    pairs = zip(rows["context"][:count], rows["question"][:count], strict=True)
    return [render_prompt(settings.data.prompt_template, *pair) for pair in pairs]


def measure(
    sides: dict[str, Answers], prompts: list[str], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each side by round, and its answers."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    texts: dict[str, list[str]] = {}
    for answers in sides.values():
        answers(prompts[:4])  # first calls are slow
    for number in range(1, rounds + 1):
        for name, answers in sides.items():
            begun = time.perf_counter()
            texts[name] = answers(prompts)
            seconds[name].append(time.perf_counter() - begun)
            print(f"round {number}, {name}: {len(prompts) / seconds[name][-1]:.1f} answers/s", file=sys.stderr)
    return seconds, texts


def main() -> None:
    parser = argparse.ArgumentParser(description="Batched generation of an evaluation beside one generate at a time.")
    parser.add_argument("--model", type=Path, default=PROJECT / "assets" / "tiny-mistral")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=None, help="default: evaluation.batch_size")
    parser.add_argument("--json", action="store_true", help="figures on stdout as JSON")
    arguments = parser.parse_args()

    import torch

    from text2sql.config_file import load_settings
    from text2sql.evaluation.answering import LocalModel
    from text2sql.training.model import load_for_inference

    limits = load_settings(CONFIG).evaluation
    if arguments.batch_size:
        limits = limits.model_copy(update={"batch_size": arguments.batch_size})
    loaded = load_for_inference(arguments.model)
    threads = sorted({1, torch.get_num_threads()})
    sides = {f"generate, {n} threads": one_at_a_time(*loaded, limits.max_new_tokens, n) for n in threads}
    sides["evaluation"] = LocalModel(*loaded, limits, arguments.model.name).answers
    seconds, texts = measure(sides, test_prompts(arguments.rows), arguments.rounds)
    peers = [name for name in sides if name != "evaluation"]
    best = [min(each) for each in zip(*(seconds[name] for name in peers), strict=True)]
    ratios = [peer / ours for peer, ours in zip(best, seconds["evaluation"], strict=True)]
    same = sum(a == b for a, b in zip(texts[peers[0]], texts["evaluation"], strict=True)) / arguments.rows
    if arguments.json:
        print(json.dumps({"seconds": seconds, "ratios": ratios, "ratio": statistics.median(ratios), "same": same}))
        return
    for name, each in seconds.items():
        print(f"{name:<22}{arguments.rows / statistics.median(each):>10.1f} answers/s")
    print(f"{statistics.median(ratios):.1f} times one at a time ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")
    verdict = "holds" if statistics.median(ratios) >= CLAIM and same == 1 else "DOES NOT HOLD"
    print(f"{same:.1%} the same answers; the claim of {CLAIM:g} times {verdict}")


if __name__ == "__main__":
    main()
