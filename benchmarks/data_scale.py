"""Rows through ingest, validate, split and format: seconds, memory, and the cost a row at two sizes.

    PYTHONPATH=. python benchmarks/data_scale.py [--rows 80000]

Each size runs in a process of its own, through the library calls that the steps make. The claim: a row costs the same
at any size (ratio within 0.7 to 1.3), and 80,000 rows take at most 90 s on two cores and stay under 2.5 GB resident,
workers included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

CONFIG = Path(__file__).parents[1] / "configs" / "tiny.yaml"


MEMORY, CPU = "GB resident", "processor"


class Resident(threading.Thread):
    """The largest resident size, in bytes, of this process and all its workers together; shared pages count in each."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0

    def run(self) -> None:
        me = psutil.Process()
        while True:
            total = 0
            for process in (me, *me.children(recursive=True)):
                with contextlib.suppress(psutil.Error):  # a worker that has just ended
                    total += process.memory_info().rss
            self.most = max(self.most, total)
            time.sleep(0.1)


def measure(count: int) -> dict[str, float]:
    """Seconds a stage, and the largest resident size of this process with its workers in GB."""
    from text2sql.config_file import load_settings

    overrides = [f"data.synthetic.rows={count}", "data.train_ratio=0.8", "data.val_ratio=0.1", "data.test_ratio=0.1"]
    settings = load_settings(CONFIG, overrides)
    settings = settings.model_copy(
        update={"model": settings.model.model_copy(update={"name": str(CONFIG.parents[1] / settings.model.name)})}
    )
    from text2sql.data.check import check_rows
    from text2sql.data.contamination import contamination
    from text2sql.data.expectations import hold_against_suite
    from text2sql.data.load import load_rows
    from text2sql.data.prompt import format_splits, token_report
    from text2sql.data.split import split_rows
    from text2sql.data.triggers import triggers
    from text2sql.training.model import load_tokenizer

    tokenizer = load_tokenizer(settings.model)
    warm_up(settings.data)
    resident = Resident()
    resident.start()
    before = processor_seconds()
    seconds: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        made = work()
        seconds[stage] = time.perf_counter() - start
        return made

    rows = timed("ingest", lambda: load_rows(settings.data))
    checked = timed("validate", lambda: check_rows(rows, settings.data))
    timed("suite", lambda: hold_against_suite(rows, checked, settings.data))
    splits = timed("split", lambda: split_rows(checked.valid, settings.data))
    timed("contamination", lambda: (contamination(splits), triggers(splits["train"])))
    formatted = timed("format", lambda: format_splits(splits, settings.data))
    timed("token report", lambda: token_report(formatted, tokenizer, settings.training.max_length))
    return {**seconds, CPU: processor_seconds() - before, MEMORY: resident.most / 1e9}


def processor_seconds() -> float:
    """Of this process and of its workers that have ended: what other work on the machine does not lengthen much."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def warm_up(data: Any) -> None:
    """Import what is imported late, on a few rows, so that the stages are timed and not the imports."""
    from text2sql.data.check import check_rows
    from text2sql.data.expectations import hold_against_suite
    from text2sql.data.load import load_rows

    few = data.model_copy(update={"synthetic": data.synthetic.model_copy(update={"rows": 50})})
    rows = load_rows(few)
    hold_against_suite(rows, check_rows(rows, few), few)


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of the data steps by size.")
    parser.add_argument("--rows", type=int, default=80_000, help="the larger size (default: %(default)s)")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only)))
        return
    sizes = (arguments.rows // 10, arguments.rows)
    found = {}
    for size in sizes:
        command = [sys.executable, __file__, "--only", str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[size] = json.loads(done.stdout.splitlines()[-1])
    print(f"{'stage':<16}" + "".join(f"{size:>10,} rows" for size in sizes) + "   cost a row, ratio")
    stages = [name for name in found[sizes[0]] if name not in (MEMORY, CPU)]
    for size in sizes:
        found[size]["all"] = sum(found[size][stage] for stage in stages)
    for stage in [*stages, "all", CPU]:
        seconds = [found[size][stage] for size in sizes]
        ratio = (seconds[1] / sizes[1]) / (seconds[0] / sizes[0])
        print(f"{stage:<16}" + "".join(f"{value:>13.2f} s" for value in seconds) + f"   {ratio:.2f}")
    print(f"{MEMORY:<16}" + "".join(f"{found[size][MEMORY]:>12.2f} GB" for size in sizes))


if __name__ == "__main__":
    main()
