"""What the pipeline costs over the same library calls without ZenML, step by step.

    PYTHONPATH=. python benchmarks/overhead.py [--rows 17000] [--rounds 1]

Each side trains and judges the embedded default in a process of its own, ZenML's with a store of its own that a process
before it has made (a fresh store takes some seconds, once, and they are printed). The claim: under 10% more wall time
than the library calls alone, at the default's own size; `--rows 2000` is a look at it in a minute. Processor time,
which other work on the machine lengthens less, stands beside it. Writing results/ is on neither side.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
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


def by_zenml(config: Any) -> dict[str, float]:
    """Seconds a step, as ZenML noted them."""
    from pipelines.launch import launch
    from stacks.place import find_place

    run = launch("train", config, find_place(None), cache=False).run
    return {name: (step.end_time - step.start_time).total_seconds() for name, step in run.steps.items()}


def by_hand(config: Any, work: Path) -> dict[str, float]:
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

    seconds: dict[str, float] = {}

    def timed(step: str, call: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        made = call()
        seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - begun
        return made

    rows = timed("ingest", lambda: load_rows(config.data))
    checked = timed("validate", lambda: check_rows(rows, config.data))
    timed("validate", lambda: hold_against_suite(rows, checked, config.data))
    splits = timed("format", lambda: format_splits(split_rows(checked.valid, config.data), config.data))
    limit = config.training.max_length
    timed("format", lambda: token_report(splits, load_tokenizer(config.model), limit))
    timed("format", lambda: (contamination(splits), triggers(splits["train"])))
    trained = timed("finetune", lambda: finetune(splits, config, output=work / "adapter"))
    merged = timed("merge", lambda: merge_adapter(trained.path, config, splits["validation"], work / "merged"))

    def judge() -> Any:
        contenders = {
            "base": local_model(config.model.name, config.evaluation, few_shot=True),
            "tuned": local_model(merged.path, config.evaluation),
        }
        found = evaluate_systems(splits["test"], contenders, config, splits["train"])
        plain_figures(splits["test"], contenders["tuned"], config)
        return found

    evaluation = timed("evaluate", judge)
    timed("promote", lambda: decide(evaluation, config.gate))
    return seconds


def side(name: str, rows: int) -> None:
    """One side in this process; its figures as a line of JSON, counted from the start of the process."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if name == "store":
            from zenml.client import Client

            Client().active_stack  # noqa: B018 - made when it is first asked for
            steps: dict[str, float] = {}
        else:
            config = settings(rows, work)
            steps = by_zenml(config) if name == "ZenML" else by_hand(config, work)
    used = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"steps": steps, "processor": used}))


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
    return {**found, "wall": time.perf_counter() - begun}


def show(rounds: list[dict[str, dict[str, Any]]]) -> None:
    print(f"{'step':<28}{'library, s':>12}{'ZenML, s':>12}{'more, s':>10}")
    for step in rounds[0]["ZenML"]["steps"]:
        line(step, *(middle(rounds, which, lambda found, step=step: found["steps"].get(step, 0.0)) for which in SIDES))
    between = (middle(rounds, which, lambda found: found["wall"] - sum(found["steps"].values())) for which in SIDES)
    line("imports, start, in between", *between)
    for what, label in (("wall", "all"), ("processor", "all, processor time")):
        line(label, *(middle(rounds, which, lambda found, what=what: found[what]) for which in SIDES), share=True)
    print(f"claim: under {CLAIM:.0%} more at the default's size")


def middle(rounds: list[dict[str, dict[str, Any]]], which: str, pick: Callable[[dict[str, Any]], float]) -> float:
    return statistics.median(pick(found[which]) for found in rounds)


def line(name: str, alone: float, under: float, share: bool = False) -> None:
    more = f"   {under / alone - 1:+.1%}" if share else ""
    print(f"{name:<28}{alone:>12.2f}{under:>12.2f}{under - alone:>+10.2f}{more}")


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
