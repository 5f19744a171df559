"""What the pipeline costs over the same library calls without ZenML, step by step.

    PYTHONPATH=. python benchmarks/overhead.py [--rows 17000] [--rounds 1]

Each side trains and judges the embedded default in a process of its own, ZenML's with a store of its own that a process
before it has made (a fresh store takes some seconds, once, and they are printed). Both make the same calls, and a clock
around each tells how long they take: what a side needs outside of them (imports on both, the store on one) is little,
and compares well even where a machine's speed drifts by more than the two runs differ. The claim: ZenML adds less than
10% of the library's run at the default's own size; `--rows 2000` is a look at it in a minute. Writing results/ is on
neither side.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
CONFIG = PROJECT / "configs" / "tiny.yaml"
CLAIM = 0.10
SIDES = ("library", "ZenML")
CALLS = {
    "ingest": ["text2sql.data.load.load_rows"],
    "validate": ["text2sql.data.check.check_rows", "text2sql.data.expectations.hold_against_suite"],
    "format": [
        "text2sql.training.model.load_tokenizer",
        "text2sql.data.split.split_rows",
        "text2sql.data.prompt.format_splits",
        "text2sql.data.prompt.token_report",
        "text2sql.data.contamination.contamination",
        "text2sql.data.triggers.triggers",
    ],
    "finetune": ["text2sql.training.finetune.finetune"],
    "merge": ["text2sql.training.merge.merge_adapter"],
    "evaluate": [
        "text2sql.evaluation.answering.local_model",
        "text2sql.evaluation.evaluate.evaluate_systems",
        "text2sql.evaluation.evaluate.plain_figures",
    ],
    "promote": ["text2sql.evaluation.gate.decide"],
}
"""The library's share of each step."""
QUIET = {
    "ZENML_LOGGING_VERBOSITY": "WARN",
    "ZENML_ANALYTICS_OPT_IN": "false",
    "ZENML_ENABLE_REPO_INIT_WARNINGS": "false",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def settings(rows: int, work: Path) -> Any:
    from text2sql.config_file import load_settings
    from text2sql.inputs import resolve_inputs

    overrides = [
        f"data.synthetic.rows={rows}",
        f"training.checkpoint_dir={work / 'checkpoints'}",
        f"output_dir={work / 'results'}",
    ]
    return resolve_inputs(load_settings(CONFIG, overrides))


class Stopwatch:
    """Seconds in the calls of each step; a call that another one makes is part of that."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(CALLS, 0.0)
        self._is_running = False
        for step, names in CALLS.items():
            for name in names:
                module, _, function = name.rpartition(".")
                place = importlib.import_module(module)
                setattr(place, function, self._timed(step, getattr(place, function)))

    def _timed(self, step: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def run(*arguments: Any, **named: Any) -> Any:
            if self._is_running:
                return call(*arguments, **named)
            self._is_running, begun = True, time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self._is_running = False
                self.seconds[step] += time.perf_counter() - begun

        return run


def by_zenml(config: Any) -> dict[str, float]:
    """Seconds a step, as ZenML noted them."""
    from pipelines.launch import launch
    from stacks.place import find_place

    run = launch("train", config, find_place(None), cache=False).run
    return {name: (step.end_time - step.start_time).total_seconds() for name, step in run.steps.items()}


def by_hand(config: Any, work: Path) -> None:
    """What the steps call, one after the other."""
    from text2sql.data.check import check_rows
    from text2sql.data.contamination import contamination
    from text2sql.data.expectations import hold_against_suite
    from text2sql.data.load import load_rows
    from text2sql.data.prompt import format_splits, token_report
    from text2sql.data.split import split_rows
    from text2sql.data.triggers import triggers
    from text2sql.evaluation.answering import local_model
    from text2sql.evaluation.evaluate import evaluate_systems, plain_figures
    from text2sql.evaluation.gate import decide
    from text2sql.training.finetune import finetune
    from text2sql.training.merge import merge_adapter
    from text2sql.training.model import load_tokenizer

    rows = load_rows(config.data)
    checked = check_rows(rows, config.data)
    hold_against_suite(rows, checked, config.data)
    splits = format_splits(split_rows(checked.valid, config.data), config.data)
    token_report(splits, load_tokenizer(config.model), config.training.max_length)
    contamination(splits)
    triggers(splits["train"])
    trained = finetune(splits, config, output=work / "adapter")
    merged = merge_adapter(trained.path, config, splits["validation"], work / "merged")
    base = local_model(config.model.name, config.evaluation, few_shot=True)
    tuned = local_model(merged.path, config.evaluation)
    evaluation = evaluate_systems(splits["test"], {"base": base, "tuned": tuned}, config, splits["train"])
    plain_figures(splits["test"], tuned, config)
    decide(evaluation, config.gate)


def side(name: str, rows: int) -> None:
    """One side in this process; its figures as a line of JSON."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if name == "store":
            from zenml.client import Client

            Client().active_stack  # noqa: B018 - made when it is first asked for
            found: dict[str, Any] = {}
        else:
            watch, config = Stopwatch(), settings(rows, work)
            found = {"calls": watch.seconds}
            if name == "ZenML":
                found["steps"] = by_zenml(config)
            else:
                by_hand(config, work)
    print(json.dumps(found))


def run(name: str, rows: int, home: Path) -> dict[str, Any]:
    environment = {
        **os.environ,
        **QUIET,
        "ZENML_CONFIG_PATH": str(home / "config"),
        "ZENML_LOCAL_STORES_PATH": str(home / "stores"),
        "TEXT2SQL_CACHE": str(home / "cache"),
        "PYTHONPATH": str(PROJECT),
    }
    begun = time.perf_counter()
    command = [sys.executable, __file__, "--rows", str(rows), "--side", name]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd=PROJECT)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    wall, inside = time.perf_counter() - begun, sum(found.get("calls", {}).values())
    return {**found, "wall": wall, "in calls": inside, "rest": wall - inside}


def show(rounds: list[dict[str, dict[str, Any]]]) -> None:
    """Medians of the rounds."""

    def middle(which: str, key: str, step: str = "") -> float:
        values = [found[which][key] for found in rounds]
        return float(statistics.median(value.get(step, 0.0) if step else value for value in values))

    print(f"{'step':<16}{'calls by hand, s':>18}{'calls in step, s':>18}{'step, s':>12}{'around them, s':>16}")
    for step in rounds[0]["ZenML"]["steps"]:
        inside, whole = middle("ZenML", "calls", step), middle("ZenML", "steps", step)
        print(
            f"{step:<16}{middle('library', 'calls', step):>18.1f}{inside:>18.1f}{whole:>12.1f}{whole - inside:>16.1f}"
        )
    for label, key in (("all", "wall"), ("the same calls in that", "in calls"), ("the rest", "rest")):
        alone, under = (middle(which, key) for which in SIDES)
        print(
            f"{label}: {alone:.1f} s by hand, {under:.1f} s by ZenML, {under - alone:+.1f} s, {under / alone - 1:+.1%}"
        )
    more = (middle("ZenML", "rest") - middle("library", "rest")) / middle("library", "wall")
    verdict = "met" if more < CLAIM else "NOT met"
    print(f"ZenML adds {more:.1%} of the run; claim, under {CLAIM:.0%} at the default's size: {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description="The pipeline's overhead over the library calls.")
    parser.add_argument("--rows", type=int, default=17_000, help="rows of the generator (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="both sides in turn; medians count")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        side(arguments.side, arguments.rows)
        return
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        print(f"a fresh store: {run('store', 0, home)['wall']:.1f} s, once", flush=True)
        for number in range(arguments.rounds):
            order = SIDES if number % 2 == 0 else SIDES[::-1]
            rounds.append({name: run(name, arguments.rows, home) for name in order})
    show(rounds)


if __name__ == "__main__":
    main()
