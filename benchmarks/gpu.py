"""Training and generation on a GPU with a Mistral-7B of random weights, made on the spot: nothing is downloaded.

    PYTHONPATH=. python benchmarks/gpu.py --part train-qlora --part generate [--output gpu.json]
    PYTHONPATH=. python benchmarks/gpu.py --shape tiny          # all of it on a CPU, in a minute or two: its own test

Speed and memory do not depend on what the weights say. Each part takes less than ten minutes and is one process; each
variant is measured beside the plain recipe (4 × 4 rows padded to the longest of a batch, loss over everything with
whole logits, checkpointing). Tokens a second are those that are not padding, and the loss and the gradient's norm stand
beside them: a run that trains nothing is fast. Where trl, datasets and the library's own requirements are installed,
variants run through `text2sql.training.finetune.finetune` and the peer through TRL's SFTTrainer; elsewhere through a
loop of this file's own, over the same batches, and the output says so. What a machine lacks (bitsandbytes, Liger,
FlashAttention) is left out by name. A machine without these needs torch, transformers and peft.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from benchmarks import gpu_generation, gpu_training
from benchmarks.gpu_training import Figures, Shape, Variant

SHAPES = {
    "mistral-7b": Shape(32000, 4096, 14336, 32, 32, 8, rows=2048, short=2048, long=8192),
    "tiny": Shape(2304, 64, 128, 2, 4, 2, rows=64, short=512, long=1024),
}
PARTS = ("train-bf16", "train-qlora", "train-8bit", "generate")
EPOCH_ROWS, EPOCHS, USUAL_MINUTES = 78_577, 3, 45
"""b-mc2/sql-create-context, and what the usual recipe of this kind says of one A100."""
FIELD = (
    ("Llama-3.1-8B QLoRA, torchtune, one RTX 4090", 2413, 7.4),
    ("Mistral-7B QLoRA, padding-free with fused kernels, one A100 (10.0 samples/s)", None, 11.3),
)
"""What others measured: tokens a second and GiB; other rows, other cards, so to be read beside and not against."""
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "A10": 125e12, "L4": 121e12, "4090": 165e12, "T4": 65e12}
"""Dense operations a second in 16 bits, from the makers' data sheets."""


def variants(part: str, shape: Shape) -> list[Variant]:
    """The plain recipe first, then ours, each one change from the other."""
    bits = {"train-bf16": 16, "train-qlora": 4, "train-8bit": 8}[part]
    ours = Variant("grouped by length", bits, tokens=shape.long)
    return [
        Variant("plain recipe", bits, tokens=0, checkpointing=True, plain=True),
        Variant("grouped by length, short", bits, tokens=shape.short),
        ours,
        ours.but("checkpointing", checkpointing=True),
        ours.but("packed", packing=True),
        ours.but("Liger", liger=True),
    ]


def peak_of(device: str) -> float | None:
    return next((peak for name, peak in PEAKS.items() if name in device), None)


def operations_a_token(shape: Shape, model_parameters: int, adapter: int, mean_length: float) -> float:
    """2 a weight forward and 2 backward, 6 a trained one, attention half of its square; nothing recomputed."""
    inside = model_parameters - shape.vocabulary * shape.hidden  # an embedding is looked up, not multiplied
    return 4 * inside + 6 * adapter + 6 * mean_length * shape.hidden * shape.layers


def train_part(part: str, shape: Shape, arguments: argparse.Namespace, device: str) -> dict[str, Any]:
    runner = gpu_training.runner(shape, Path(arguments.work), arguments.rows, arguments.plain_loop)
    rows: list[dict[str, Any]] = []
    left_out = {}
    started = time.monotonic()
    for variant in variants(part, shape):
        if missing := gpu_training.missing(variant):
            left_out[variant.name] = missing
            continue
        if time.monotonic() - started > arguments.limit:
            left_out[variant.name] = f"the part's {arguments.limit} s were used up"
            continue
        try:
            found = runner.run(variant, arguments.steps)
        except torch.cuda.OutOfMemoryError as error:
            left_out[variant.name] = f"out of memory: {' '.join(str(error).split())[:120]}"
            continue
        rows.append(described(variant, found, shape, device))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    plain = next((row for row in rows if row["variant"] == "plain recipe"), None)
    for row in rows:
        row["times_plain"] = row["tokens_per_second"] / plain["tokens_per_second"] if plain else None
    return {"engine": runner.engine, "rows": rows, "left_out": left_out}


def described(variant: Variant, found: Figures, shape: Shape, device: str) -> dict[str, Any]:
    work = operations_a_token(shape, found.parameters, found.trainable, found.mean_length)
    peak = peak_of(device)
    minutes = EPOCH_ROWS * EPOCHS * found.mean_length / found.tokens_per_second / 60
    return {
        "variant": variant.name,
        "bits": variant.bits,
        "tokens_per_second": found.tokens_per_second,
        "useful_share": found.useful_share,
        "mfu": work * found.tokens_per_second / peak if peak else None,
        "peak_gib": found.peak_gib,
        "planned_gib": gpu_training.planned_gib(shape, variant, found),
        "first_loss": found.losses[0],
        "last_loss": found.losses[-1],
        "grad_norm": found.grad_norms[-1],
        "steps": len(found.losses),
        "minutes_3_epochs": minutes,
    }


def machine() -> dict[str, Any]:
    import peft
    import transformers

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    return {"device": name, **versions, "measured": time.strftime("%Y-%m-%d")}


def markdown(report: dict[str, Any]) -> str:
    lines = [f"{report['machine']['device']}, {report['shape']}, torch {report['machine']['torch']}\n"]
    for part, found in report["parts"].items():
        if part == "generate":
            lines += gpu_generation.table(found)
            continue
        lines.append(f"**{part}** ({found['engine']})\n")
        lines.append(
            "| variant | tokens/s | × plain | useful | MFU | peak GiB | planned | loss | grad norm | 3 epochs, min |"
        )
        lines.append("|---|---|---|---|---|---|---|---|---|---|")
        for row in found["rows"]:
            cells = (
                row["variant"],
                f"{row['tokens_per_second']:,.0f}",
                number(row["times_plain"], "{:.2f}"),
                f"{row['useful_share']:.0%}",
                number(row["mfu"], "{:.0%}"),
                number(row["peak_gib"], "{:.1f}"),
                number(row["planned_gib"], "{:.1f}"),
                f"{row['first_loss']:.3f} → {row['last_loss']:.3f}",
                f"{row['grad_norm']:.3g}",
                f"{row['minutes_3_epochs']:,.0f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
        lines += [f"\nleft out, {name}: {why}" for name, why in found["left_out"].items()]
        lines.append("")
    lines.append(f"Usual recipe, as its authors say: {USUAL_MINUTES} minutes on one A100 for {EPOCHS} epochs.")
    lines += [f"{name}: {speed or 'no'} tokens/s given, {memory} GiB." for name, speed, memory in FIELD]
    return "\n".join(lines) + "\n"


def number(value: float | None, form: str) -> str:
    return "not known" if value is None or not math.isfinite(value) else form.format(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", action="append", choices=PARTS, help="repeatable; default: all")
    parser.add_argument("--shape", choices=SHAPES, default="mistral-7b")
    parser.add_argument("--steps", type=int, default=12, help="timed optimizer steps a variant (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=540, help="seconds a part; variants after that are left out")
    parser.add_argument("--rows", type=Path, help="JSON lines with question, context, answer; default: generated ones")
    parser.add_argument("--plain-loop", action="store_true", help="the plain loop, whatever is installed")
    parser.add_argument("--work", default="", help="folder with room for the weights; default: a temporary one")
    parser.add_argument("--output", type=Path, help="JSON file; a Markdown table is put beside it")
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    if arguments.shape == "mistral-7b" and not torch.cuda.is_available():
        raise SystemExit("a 7B model needs a GPU; --shape tiny runs everything on a CPU")
    report: dict[str, Any] = {"machine": machine(), "shape": arguments.shape, "parts": {}}
    with tempfile.TemporaryDirectory(dir=arguments.work or None) as folder:
        arguments.work = folder
        for part in arguments.part or PARTS:
            work: Callable[[], dict[str, Any]] = (
                (lambda: gpu_generation.compare(shape, arguments.rows))
                if part == "generate"
                else (lambda part=part: train_part(part, shape, arguments, report["machine"]["device"]))
            )
            report["parts"][part] = work()
            if arguments.output:  # what is measured is kept, whatever becomes of the parts after it
                arguments.output.write_text(json.dumps(report, indent=2) + "\n")
                arguments.output.with_suffix(".md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
