"""What the planner says a training step takes, against what it was seen to take: peak resident memory on a CPU.

    PYTHONPATH=. python benchmarks/memory.py [--settings 'NF4, 2 rows'] [--json]

Each setting trains a Mistral of 16 M random parameters for two steps, by the library's `finetune`. Measured is the
kernel's high-water mark of resident memory in the second step, when the optimizer has its state, less what was resident
before the model was loaded; a still smaller training has been there before, so that libraries are loaded and warm. The
allocator is told to give freed memory back at once: what it would hold on to is not the model's. The claim: within 15%
of the measured peak, setting by setting.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
TOKENIZER = PROJECT / "assets" / "tiny-mistral"
CLAIM = 0.15
LENGTH = 128
SHAPE = {
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "sliding_window": None,
}
SMALL = {**SHAPE, "hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 1}
SETTINGS: dict[str, dict[str, Any]] = {
    "16 bit, 8 rows": {},
    "16 bit, 2 rows": {"rows": 2},
    "16 bit, 8 rows, dropout": {"dropout": 0.05},
    "16 bit, 8 rows, checkpointing": {"checkpointing": True},
    "16 bit, 8 rows, loss on all": {"prompt": 2},
    "16 bit, 8 rows, loss on all, checkpointing": {"prompt": 2, "checkpointing": True},
    "NF4, 8 rows": {"bits": 4},
    "NF4, 2 rows": {"bits": 4, "rows": 2},
    "NF4, 8 rows, checkpointing": {"bits": 4, "checkpointing": True},
    "NF4, 8 rows, bf16": {"bits": 4, "precision": "bf16"},
    "16 bit, 8 rows, bf16": {"precision": "bf16"},
    "16 bit, 2 rows, rank 128": {"rows": 2, "rank": 128},
    "16 bit, 1 row, rank 64, Muon": {"rows": 1, "rank": 64, "optim": "muon"},
    "16 bit, 1 row, rank 256, checkpointing, Muon": {"rows": 1, "rank": 256, "optim": "muon", "checkpointing": True},
    "NF4 de-quantised once, 8 rows": {"bits": 4, "dequantize": "once"},
    "NF4 de-quantised once, 2 rows, rank 128": {"bits": 4, "dequantize": "once", "rows": 2, "rank": 128},
    "NF4 de-quantised once, 2 rows, rank 128, Muon": {
        "bits": 4,
        "dequantize": "once",
        "rows": 2,
        "rank": 128,
        "optim": "muon",
    },
    "NF4 de-quantised once, 2 rows, rank 128, checkpointing": {
        "bits": 4,
        "dequantize": "once",
        "rows": 2,
        "rank": 128,
        "checkpointing": True,
    },
}
"""What differs from 16 bit (fp32 on a CPU), 8 rows, no dropout, loss on a quarter of the tokens, rank 16, AdamW.

4-bit weights are de-quantised in each pass, as on a GPU, unless it says once; from rank 128 on LoRA is folded.
"""


def settings(folder: Path, work: Path, setting: dict[str, Any]) -> Any:
    from text2sql.config import Settings

    return Settings.model_validate(
        {
            "model": {
                "name": str(folder),
                "quantization_bits": setting.get("bits", 16),
                "dequantize": setting.get("dequantize", "always"),
            },
            "lora": {"r": setting.get("rank", 16), "lora_dropout": setting.get("dropout", 0.0)},
            "training": {
                "max_steps": 2,
                "per_device_train_batch_size": setting.get("rows", 8),
                "gradient_accumulation_steps": 1,
                "gradient_checkpointing": setting.get("checkpointing", False),
                "precision": setting.get("precision", "auto"),
                "optim": setting.get("optim", "auto"),
                "max_length": LENGTH,
                "logging_steps": 1,
                "save_steps": 100,
                "checkpoint_dir": work / "checkpoints",
            },
        }
    )


def make_model(folder: Path, shape: dict[str, Any]) -> Path:
    """Random weights of a shape, with the embedded base's tokenizer."""
    import torch
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    MistralForCausalLM(MistralConfig(**shape)).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder)
    return folder


def rows(folder: Path, count: int, prompt: int) -> Any:
    """Rows of LENGTH or LENGTH - 1 tokens, `prompt` of them without loss: padding, hence a mask, in every batch."""
    from datasets import Dataset, DatasetDict
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    [word] = tokenizer(" a", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode([word] * 3) == " a a a"
    texts = [(" a" * (prompt - 1), " a" * (LENGTH - prompt - 1 - number % 2)) for number in range(count)]
    return DatasetDict(train=Dataset.from_list([{"prompt": p, "completion": c} for p, c in texts]))


def status(name: str) -> int:
    """A size in bytes from /proc/self/status."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def resident() -> int:
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return status("VmRSS")


def measure(name: str, work: Path) -> dict[str, float]:
    """Bytes planned and seen."""
    import gc

    import torch

    from text2sql.training.finetune import finetune
    from text2sql.training.planner.memory import MicroBatch, estimate
    from text2sql.training.planner.plan import method_of
    from text2sql.training.planner.shape import shape_of

    setting = SETTINGS[name]
    count, prompt = setting.get("rows", 8), setting.get("prompt", LENGTH * 3 // 4)
    small, config = (settings(work / folder, work, setting) for folder in ("small", "model"))
    splits = rows(work / "model", 2 * count, prompt)
    finetune(splits, small)
    gc.collect()
    before = resident()

    def after_step(figures: dict[str, float]) -> None:
        if figures.get("step") == 1:
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again

    finetune(splits, config, report_metrics=after_step)
    seen = status("VmHWM") - before
    batch = MicroBatch(count, LENGTH, count * (LENGTH - prompt))
    method = method_of(config, torch.device("cpu"), copied=config.model.dequantize == "once")
    planned = estimate(shape_of(config.model), method, batch)
    return {"planned": planned.total, "seen": seen, **planned.parts}


def measure_all(names: list[str]) -> None:
    """One line of JSON a setting, on stdout."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_model(work / "small", SMALL)
        make_model(work / "model", SHAPE)
        for name in names:
            print(json.dumps({name: measure(name, work)}), flush=True)


def compare(names: list[str]) -> dict[str, dict[str, float]]:
    """The figures of each setting, from a process whose allocator keeps nothing back."""
    command = [sys.executable, __file__, "--only", *names]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, dict[str, float]] = {}
    for line in done.stdout.splitlines():
        found |= json.loads(line)
    return found


def error(figures: dict[str, float]) -> float:
    """Share by which the plan is above what was seen."""
    return figures["planned"] / figures["seen"] - 1


def main() -> None:
    parser = argparse.ArgumentParser(description="The planner's memory against measured peaks.")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS), metavar="NAME")
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    parser.add_argument("--only", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        measure_all(arguments.only)
        return
    found = compare(arguments.settings)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{'setting':<46}{'planned MiB':>12}{'seen MiB':>12}{'error':>9}")
    for name, figures in found.items():
        planned, seen = figures["planned"] / 2**20, figures["seen"] / 2**20
        print(f"{name:<46}{planned:>12.0f}{seen:>12.0f}{error(figures):>+9.1%}")
    worst = max(abs(error(figures)) for figures in found.values())
    print(f"worst {worst:.1%}; claim: within {CLAIM:.0%}")


if __name__ == "__main__":
    main()
