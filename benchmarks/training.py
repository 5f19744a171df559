"""Fine-tuning beside the usual recipe: useful tokens a second, peak memory, validation loss, time to the same loss.

    PYTHONPATH=. python benchmarks/training.py [--data rows.jsonl ...] [--rows 1500] [--rounds 3] [--plot curve.svg]
    PYTHONPATH=. python benchmarks/training.py --scale 1000 50000

The peer is TRL's SFTTrainer as tutorials have it: prompt and completion in one text, loss over everything, padding to
the longest of a batch, gradient checkpointing, 4 rows x 4 passes. Ours is `text2sql.training.finetune` with
configs/tiny.yaml. Both train the same base in NF4 with the same LoRA on the same rows for one epoch, in fp32 (which
is the faster here, so the peer is not held back by TRL's own bf16), each in a process of its own, in alternation; the
median of the rounds' ratios counts. The learning rate follows one rule: 16 rows a step for both, hence equally many
steps, and the same optimizer, peak, warm-up, schedule and clipping; --learning-rates gives the rounds peaks of their
own.

Validation loss is taken by one function for both, over completion tokens of the same held-out rows, and its time is not
counted. A useful token is one that is not padding; beside a second of the clock stands one of the processor, which
other work on the machine lengthens less. Memory is the largest resident size while training, and its rise
over what was resident once the quantised base was loaded. The claim: 3 times the useful tokens a second at no worse
validation loss, with a lower peak.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

PROJECT = Path(__file__).parents[1]
CONFIG = PROJECT / "configs" / "tiny.yaml"
CLAIM = 3.0
POINTS = 8
"""Validation losses on the way, for the plot and the time to the same loss."""


class Resident(threading.Thread):
    """The largest resident size of this process, in bytes, looked at 50 times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0

    def run(self) -> None:
        me = psutil.Process()
        while True:
            self.most = max(self.most, me.memory_info().rss)
            time.sleep(0.02)


class Watch:
    """A callback of either trainer: validation losses at a few steps, on a clock that stands still meanwhile."""

    def __init__(self, model: Any, rows: list[dict[str, Any]], steps: int) -> None:
        self.model, self.rows = model, rows
        self.at = {max(1, round(steps * i / POINTS)) for i in range(1, POINTS + 1)}
        self.curve: list[tuple[float, float]] = []
        self.logged: list[dict[str, float]] = []
        self.started = self.paused = 0.0
        self.cpu = self.cpu_paused = self.cpu_started = 0.0
        self.resident = Resident()
        self.base = psutil.Process().memory_info().rss
        self.peak = 0

    def callback(self) -> Any:
        from transformers import TrainerCallback

        watch = self

        class Hook(TrainerCallback):
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                watch.curve.append((0.0, validation_loss(watch.model, watch.rows)))
                watch.base = psutil.Process().memory_info().rss
                watch.resident.start()
                watch.started, watch.cpu_started = time.perf_counter(), time.process_time()

            def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
                if state.global_step in watch.at:
                    watch.measure()

            def on_log(self, _: Any, state: Any, *__: Any, **named: Any) -> None:
                logs = named["logs"]
                if "loss" in logs:
                    entry = {key: float(logs[key]) for key in ("loss", "grad_norm", "learning_rate") if key in logs}
                    watch.logged.append({"step": state.global_step, **entry})

        return Hook()

    def measure(self) -> None:
        begun, cpu = time.perf_counter(), time.process_time()
        self.cpu = cpu - self.cpu_started - self.cpu_paused
        self.peak = max(self.peak, self.resident.most)
        loss = validation_loss(self.model, self.rows)
        self.curve.append((begun - self.started - self.paused, loss))
        self.resident.most = 0  # what the validation took does not count
        self.paused += time.perf_counter() - begun
        self.cpu_paused += time.process_time() - cpu


def validation_loss(model: Any, rows: list[dict[str, Any]]) -> float:
    """Mean loss over completion tokens, row by row."""
    import torch

    was = model.training
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row["input_ids"]])
            wanted = torch.tensor(row["completion_mask"])[1:].bool()
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1][wanted].float()
            total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:][wanted], reduction="sum"))
            count += int(wanted.sum())
    model.train(was)
    return total / count


def settings_of(workdir: Path, rate: float, extra: list[str]) -> Any:
    from text2sql.config_file import load_settings

    overrides = [f"training.checkpoint_dir={workdir}", f"training.learning_rate={rate}", f"model.name={base_model()}"]
    same = ["training.optim=auto"]  # AdamW as the peer's: Muon, the config's, takes longer than these epochs to pay
    return load_settings(
        CONFIG, [*overrides, *same, "training.save_steps=100000", "training.eval_steps=100000", *extra]
    )


def base_model() -> Path:
    return PROJECT / "assets" / "tiny-mistral"


def ours(train: list[dict[str, str]], validation: list[dict[str, Any]], settings: Any) -> tuple[Watch, Any]:
    """The library's own path, but for a callback that watches."""
    from datasets import Dataset, DatasetDict

    from text2sql.training import finetune

    watches: list[Watch] = []
    build = finetune.build_trainer

    def watched(*arguments: Any, **named: Any) -> Any:
        trainer = build(*arguments, **named)
        watch = Watch(trainer.model, validation, -(-len(trainer.train_dataset) // 16))
        watches.append(watch)
        trainer.add_callback(watch.callback())
        trainers.append(trainer)
        return trainer

    trainers: list[Any] = []
    finetune.build_trainer = watched
    finetune.finetune(DatasetDict(train=Dataset.from_list(train)), settings)
    return watches[0], trainers[0]


def peer(train: list[dict[str, str]], validation: list[dict[str, Any]], settings: Any) -> tuple[Watch, Any]:
    """SFTTrainer with its plain settings; only what must be equal is taken from ours."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    from text2sql.training.model import _keep_differentiable, load_tokenizer

    training, lora = settings.training, settings.lora
    tokenizer = load_tokenizer(settings.model)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=settings.model.use_nested_quant
    )
    model = AutoModelForCausalLM.from_pretrained(
        settings.model.name, quantization_config=quantization, dtype="float32", device_map={"": "cpu"}
    )
    _keep_differentiable(model)  # or bitsandbytes drops the gradient after the first validation loss
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(training.checkpoint_dir), num_train_epochs=1, per_device_train_batch_size=4,
            gradient_accumulation_steps=4, gradient_checkpointing=True, learning_rate=training.learning_rate,
            lr_scheduler_type=training.lr_scheduler_type, warmup_steps=training.warmup_ratio,
            weight_decay=training.weight_decay, max_grad_norm=training.max_grad_norm, max_length=training.max_length,
            bf16=False, use_cpu=True, logging_steps=training.logging_steps, save_strategy="no", report_to="none",
            seed=training.seed, disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"text": row["prompt"] + row["completion"]} for row in train]),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=lora.r, lora_alpha=lora.lora_alpha, lora_dropout=lora.lora_dropout,
                               target_modules=list(lora.target_modules), task_type="CAUSAL_LM"),
    )  # fmt: skip
    watch = Watch(trainer.model, validation, -(-len(train) // 16))
    trainer.add_callback(watch.callback())
    trainer.train()
    return watch, trainer


SIDES: dict[str, Callable[..., tuple[Watch, Any]]] = {"peer": peer, "ours": ours}


def side(job: dict[str, Any]) -> dict[str, Any]:
    """One side's run, in this process."""
    from text2sql.data.prompt import encode_rows
    from text2sql.training.model import load_tokenizer

    train, held_out = job["train"], job["validation"]
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(Path(folder), job["rate"], job["set"])
        tokenizer = load_tokenizer(settings.model)

        def encoded(rows: list[dict[str, str]]) -> list[dict[str, list[int]]]:
            return encode_rows(tokenizer, [r["prompt"] for r in rows], [r["completion"] for r in rows])

        useful = sum(len(row["input_ids"]) for row in encoded(train))
        watch, trainer = SIDES[job["side"]](train, encoded(held_out), settings)
    seconds = watch.curve[-1][0]
    return {
        "seconds": seconds,
        "tokens": useful,
        "speed": useful / seconds,
        "cpu_speed": useful / watch.cpu,
        "peak": max(watch.peak, watch.resident.most),
        "rise": max(watch.peak, watch.resident.most) - watch.base,
        "steps": trainer.state.global_step,
        "curve": watch.curve,
        "log": watch.logged,
        "waited": getattr(trainer, "waited", None),
    }


def run(job: dict[str, Any], threads: int) -> dict[str, Any]:
    """`side` in a process of its own, so that its memory is its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, __file__, "--side"], input=json.dumps(job), capture_output=True, text=True, check=False,
        env=environment, cwd=PROJECT,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{job['side']} failed:\n{done.stderr[-2000:]}")
    lines = done.stderr.splitlines()
    said = [line for start, first in enumerate(lines) if "training on " in first for line in lines[start : start + 4]]
    return {**json.loads(done.stdout.splitlines()[-1]), "said": said}


def read_rows(paths: list[Path] | None, count: int, seed: int) -> list[dict[str, str]]:
    """Prompts and completions as configs/tiny.yaml writes them, drawn by seed; generated ones without a path."""
    from text2sql.config_file import load_settings
    from text2sql.data.prompt import render_prompt
    from text2sql.data.synthetic import generate_rows

    template = load_settings(CONFIG, []).data.prompt_template
    if paths:
        found = [json.loads(line) for path in paths for line in path.read_text("utf-8").splitlines()]
        rows = random.Random(seed).sample(found, min(count, len(found)))
    else:
        rows = generate_rows(count, seed)
    return [
        {"prompt": render_prompt(template, row["context"], row["question"]), "completion": row["answer"].strip()}
        for row in rows
    ]


def time_to(curve: list[list[float]], loss: float) -> float | None:
    """Seconds until the curve is at `loss`, between two points by a straight line; None if it never is."""
    before = curve[0]
    for point in curve[1:]:
        if point[1] <= loss:
            share = (before[1] - loss) / max(before[1] - point[1], 1e-12)
            return before[0] + min(max(share, 0.0), 1.0) * (point[0] - before[0])
        before = point
    return None


def compare(arguments: argparse.Namespace) -> None:
    rows = read_rows(arguments.data, arguments.rows + arguments.validation, arguments.seed)
    validation, train = rows[: arguments.validation], rows[arguments.validation :]
    print(f"{len(train)} rows to train on, {len(validation)} to validate; load average {os.getloadavg()[0]:.1f}; "
          f"{arguments.threads} threads a side")  # fmt: skip
    rounds: list[dict[str, dict[str, Any]]] = []
    for number in range(arguments.rounds):
        rate = arguments.learning_rates[number % len(arguments.learning_rates)]
        found = {}
        for name in SIDES if number % 2 == 0 else reversed(SIDES):
            job = {"side": name, "train": train, "validation": validation, "rate": rate,
                   "set": arguments.set if name == "ours" else []}  # fmt: skip
            found[name] = run(job, arguments.threads)
            show(name, rate, found[name])
        rounds.append(found)
        print(
            f"round {number + 1}: ours / peer {found['ours']['speed'] / found['peer']['speed']:.2f} times the tokens/s"
        )
    conclude(rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(rounds, indent=1))
    if arguments.plot:
        arguments.plot.write_text(plot(rounds[-1]))


def show(name: str, rate: float, found: dict[str, Any]) -> None:
    first, last = found["log"][0], found["log"][-1]
    waiting = (
        f", {found['waited'] / found['seconds']:.1%} of it waiting for data" if found["waited"] is not None else ""
    )
    for line in found["said"]:
        print(line)
    print(f"  {name}, learning rate {rate:g}: {found['tokens']:,} tokens in {found['seconds']:.1f} s and "
          f"{found['steps']} steps{waiting}\n"
          f"    training loss {first['loss']:.3f} to {last['loss']:.3f}, gradient norm {first['grad_norm']:.2f} to "
          f"{last['grad_norm']:.2f}")  # fmt: skip


def conclude(rounds: list[dict[str, dict[str, Any]]]) -> None:
    """Medians over the rounds, and of each side the best validation loss."""
    figures = [
        ("useful tokens/s", "{:,.0f}", lambda found: found["speed"]),
        ("… a second of processor", "{:,.0f}", lambda found: found["cpu_speed"]),
        ("peak resident, MiB", "{:,.0f}", lambda found: found["peak"] / 2**20),
        ("… above the loaded base, MiB", "{:,.0f}", lambda found: found["rise"] / 2**20),
        ("validation loss", "{:.4f}", lambda found: found["curve"][-1][1]),
    ]
    print(f"\n{'':<32}{'peer':>10}{'ours':>10}   ours / peer, median (range)")
    for label, pattern, of in figures:
        both = {name: statistics.median(of(found[name]) for found in rounds) for name in SIDES}
        ratios = sorted(of(found["ours"]) / of(found["peer"]) for found in rounds)
        print(f"{label:<32}" + "".join(f"{pattern.format(both[name]):>10}" for name in SIDES)
              + f"   {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")  # fmt: skip
    shares = []
    for found in rounds:
        best = min(loss for _, loss in found["peer"]["curve"])
        if (seconds := time_to(found["ours"]["curve"], best)) is not None:
            shares.append(time_to(found["peer"]["curve"], best) / seconds)  # type: ignore[operator]
    if shares:
        print(f"time to the peer's best loss: {statistics.median(shares):.1f} times faster ({min(shares):.1f} to "
              f"{max(shares):.1f}; {len(shares)} of {len(rounds)} rounds got there)")  # fmt: skip
    else:
        print("ours never reached the peer's best loss")
    speed = statistics.median(found["ours"]["speed"] / found["peer"]["speed"] for found in rounds)
    no_worse = all(found["ours"]["curve"][-1][1] <= found["peer"]["curve"][-1][1] for found in rounds)
    leaner = all(found["ours"]["peak"] <= found["peer"]["peak"] for found in rounds)
    print(f"claim of {CLAIM:g} times the tokens/s: {'met' if speed >= CLAIM else 'NOT met'}; no worse loss: "
          f"{'met' if no_worse else 'NOT met'}; lower peak: {'met' if leaner else 'NOT met'}")  # fmt: skip


def ticks(end: float) -> list[float]:
    """Round numbers from 0 to `end`, three to six of them."""
    power = 10 ** math.floor(math.log10(end))
    step = next(power * part for part in (0.2, 0.5, 1, 2) if end / (power * part) < 6)
    return [step * i for i in range(int(end / step) + 1)]


def plot(found: dict[str, dict[str, Any]]) -> str:
    """Validation loss over seconds of training, both sides in one SVG."""
    width, height, left, bottom = 720, 360, 60, 310
    longest = max(side["curve"][-1][0] for side in found.values())
    top = max(loss for side in found.values() for _, loss in side["curve"])
    colours = {"peer": "#d97706", "ours": "#4f46e5"}

    def place(seconds: float, loss: float) -> str:
        return f"{left + seconds / longest * (width - left - 20):.1f},{bottom - loss / top * (bottom - 30):.1f}"

    parts = [f'<path d="M{left},30V{bottom}H{width - 20}" fill="none" stroke="#888"/>']
    for seconds in ticks(longest):
        x, _ = place(seconds, 0).split(",")
        parts.append(f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{seconds:g} s</text>')
    for loss in ticks(top):
        _, y = place(0, loss).split(",")
        parts.append(f'<text x="{left - 8}" y="{float(y) + 4:.1f}" text-anchor="end">{loss:g}</text>')
        parts.append(f'<path d="M{left},{y}H{width - 20}" stroke="#eee"/>')
    for row, (name, side) in enumerate(found.items()):
        points = " ".join(place(seconds, loss) for seconds, loss in side["curve"])
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colours[name]}" stroke-width="2.5"/>')
        parts.append(f'<text x="{width - 210}" y="{50 + 18 * row}" fill="{colours[name]}">{name}: '
                     f'{side["speed"]:,.0f} tokens/s, {side["curve"][-1][1]:.3f}</text>')  # fmt: skip
    title = f'<text x="{left}" y="18">validation loss (completion tokens) over seconds of training, one epoch</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#444"><rect width="100%" height="100%" fill="#fff"/>'
        f"{title}{''.join(parts)}</svg>\n"
    )


def scale(arguments: argparse.Namespace) -> None:
    """Cost of a token by the number of rows: everything but the steps in full, and equally many steps of each."""
    print(f"{'rows':>8}{'tokens':>13}{'tokenise, µs a token':>23}{'step, µs a token':>19}{'waiting':>10}{'MiB':>8}")
    found = {}
    for count in arguments.scale:
        job = {"scale": count, "data": [str(path) for path in arguments.data or []], "steps": arguments.steps}
        found[count] = run({**job, "side": "scale"}, arguments.threads)
        made = found[count]
        print(f"{count:>8,}{made['tokens']:>13,}{made['tokenise']:>23.2f}{made['step']:>19.1f}"
              f"{made['waiting']:>10.2%}{made['peak'] / 2**20:>8,.0f}")  # fmt: skip
    first, last = arguments.scale[0], arguments.scale[-1]
    for name in ("tokenise", "step"):
        print(f"{name}: a token of {last:,} rows costs {found[last][name] / found[first][name]:.2f} times that of "
              f"{first:,}")  # fmt: skip


def scale_side(job: dict[str, Any]) -> dict[str, Any]:
    from datasets import Dataset, DatasetDict

    from text2sql.training import finetune

    rows = read_rows([Path(path) for path in job["data"]], job["scale"], 1)
    rows = [rows[i % len(rows)] for i in range(job["scale"])]
    resident = Resident()
    resident.start()
    spent: dict[str, float] = {}
    tokenize = finetune.tokenize

    def timed(*given: Any, **named: Any) -> Any:
        begun = time.perf_counter()
        made = tokenize(*given, **named)
        spent["tokenise"] = time.perf_counter() - begun
        spent["tokens"] = sum(made[0]["length"][:])
        return made

    finetune.tokenize = timed
    build = finetune.build_trainer
    trainers: list[Any] = []

    def kept(*given: Any, **named: Any) -> Any:
        trainers.append(build(*given, **named))
        return trainers[0]

    finetune.build_trainer = kept
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(Path(folder), 1e-3, [f"training.max_steps={job['steps']}"])
        trained = finetune.finetune(DatasetDict(train=Dataset.from_list(rows)), settings)
    last = [entry for entry in trainers[0].state.log_history if "train_runtime" in entry][-1]
    return {
        "tokens": int(spent["tokens"]),
        "tokenise": spent["tokenise"] / spent["tokens"] * 1e6,
        "step": last["train_runtime"] / trained.history[-1]["tokens"] * 1e6,
        "waiting": trainers[0].waited / last["train_runtime"],
        "peak": resident.most,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Fine-tuning beside the usual recipe.")
    parser.add_argument("--data", type=Path, nargs="+", help="JSON lines; generated rows when left out")
    parser.add_argument("--rows", type=int, default=480, help="rows to train on (default: %(default)s, a quick look)")
    parser.add_argument("--validation", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[1e-3], help="one a round, in turn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another setting of ours")
    parser.add_argument("--plot", type=Path, help="write the last round's loss curves as SVG")
    parser.add_argument("--json", type=Path, help="write everything measured")
    parser.add_argument("--scale", type=int, nargs="+", metavar="ROWS", help="cost of a token by number of rows")
    parser.add_argument("--steps", type=int, default=30, help="steps a size with --scale")
    parser.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        job = json.load(sys.stdin)
        print(json.dumps(scale_side(job) if job["side"] == "scale" else side(job)))
    elif arguments.scale:
        scale(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
