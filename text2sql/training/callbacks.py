# ruff: noqa: ARG002 - the methods of a TrainerCallback have the arguments that the Trainer passes
"""What happens beside the training steps: one progress bar, figures passed on, a clean stop on SIGTERM."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from textwrap import indent
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from text2sql.training.checkpoints import StopRequest
from text2sql.training.distributed import any_asks, is_first
from text2sql.training.trainer import EpochSampler

QUIET_SECONDS = 15.0
"""Where stderr is no terminal (a pod, CI) a line is written at most this often."""

FIGURES = {
    "loss": "loss",
    "eval_loss": "eval_loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "num_input_tokens_seen": "tokens",
    "tokens_per_second": "tokens_per_second",
    "gpu_memory_gib": "gpu_memory_gib",
}
"""Names in the Trainer's log, and ours. Tokens are those that are not padding, since the start of the run."""


def tell(message: str) -> None:
    """Lines to the person who waits, on stderr, below that of the step; of several processes the first one speaks."""
    if not is_first():
        return
    Console(stderr=True, soft_wrap=True).print(indent(message, "  "), markup=False, highlight=False)


def figures(logs: dict[str, Any]) -> dict[str, float]:
    """The figures of one log entry that are worth keeping."""
    return {ours: float(logs[theirs]) for theirs, ours in FIGURES.items() if logs.get(theirs) is not None}


def history(log_history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The Trainer's log as one entry a step, training and validation figures side by side."""
    steps: dict[int, dict[str, float]] = {}
    for entry in log_history:
        if found := figures(entry):
            steps.setdefault(int(entry["step"]), {"step": int(entry["step"])}).update(found)
    return [steps[step] for step in sorted(steps)]


class SpeedCallback(TrainerCallback):
    """Adds useful tokens a second since the last entry, and GPU memory, to a log before anyone else sees it.

    Must stand first in the list of callbacks. The clock stands still while the validation loss is taken.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self.started = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.tokens, self.started = int(state.num_input_tokens_seen), time.perf_counter()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs = kwargs["logs"]
        if "loss" not in logs:
            return
        now, seen = time.perf_counter(), int(state.num_input_tokens_seen)
        added = {"tokens_per_second": (seen - self.tokens) / max(now - self.started, 1e-9)}
        if torch.cuda.is_available():
            added["gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        self.tokens, self.started = seen, now
        logs.update(added)
        state.log_history[-1].update(added)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.started = time.perf_counter()


class ProgressCallback(TrainerCallback):
    """One bar on a terminal; elsewhere a line now and then."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bar: Progress | None = None
        self.task: Any = None
        self.last = ""
        self.validation = ""
        self.written = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        self.written = time.monotonic()
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("  fine-tuning"),
                BarColumn(bar_width=8),  # 80 columns hold the rest as it is
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.task = self.bar.add_task("", total=state.max_steps, completed=state.global_step, note="")
            self.bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        found = figures(kwargs["logs"])
        if "eval_loss" in found:
            self.validation = f"  val {found['eval_loss']:.3f}"
        if "loss" in found:
            self.last = f"loss {found['loss']:.3f}  {found.get('tokens_per_second', 0.0):,.0f} tokens/s"
        if self.bar is not None:
            self.bar.update(self.task, note=self.last + self.validation)
        elif "loss" in found and (time.monotonic() - self.written > QUIET_SECONDS or self._done(state)):
            self.written = time.monotonic()
            tell(f"fine-tuning {state.global_step}/{state.max_steps}  {self.last}{self.validation}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()

    @staticmethod
    def _done(state: TrainerState) -> bool:
        return bool(state.global_step >= state.max_steps)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


class RunCallback(TrainerCallback):
    """Keeps the data order in step with the epoch, stops on request, and passes figures on as they appear."""

    def __init__(
        self, stop: StopRequest, sampler: EpochSampler | None, report: Callable[[dict[str, float]], None] | None
    ) -> None:
        self.stop = stop
        self.sampler = sampler
        self.report = report

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # accelerate sets the epoch too, but does not reach the sampler below the wrappers of a resumed, sharded loader
        if self.sampler is not None:
            self.sampler.set_epoch(math.floor((state.epoch or 0.0) + 1e-6))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.stop.asked = any_asks(self.stop.asked)
        if self.stop.asked:
            control.should_save = True
            control.should_training_stop = True

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.report is not None and state.is_world_process_zero and (found := figures(kwargs["logs"])):
            self.report({"step": float(state.global_step), **found})
