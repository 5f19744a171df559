"""One training in several processes: who is first, what all agree on, and how torchrun starts them.

torchrun tells each process its place in the environment (RANK, LOCAL_RANK, WORLD_SIZE); without it there is one
process, and everything here does nothing. Gradients are averaged by DDP over NCCL on GPUs and gloo on CPUs. On several
machines a torchrun is started on each; they share the folder of the job and training.checkpoint_dir.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from datasets import DatasetDict, load_from_disk

from text2sql import errors
from text2sql.config import Settings, TrainingSection
from text2sql.data.batches import no_other_bars
from text2sql.errors import Text2SQLError, TrainingError
from text2sql.progress import working

if TYPE_CHECKING:
    from text2sql.training.finetune import TrainedAdapter

STOP_SECONDS = 600
"""What torchrun gives processes that were asked to stop; a pod's grace period ends before that."""


def processes() -> int:
    """How many train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this one writes files and talks to people."""
    return _rank() == 0


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def join() -> None:
    """Meet the other processes, if there are any."""
    if processes() > 1:
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available())


def wait_for_all() -> None:
    if processes() > 1:
        torch.distributed.barrier()


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """The first process does it before the others, which then find it done."""
    if not is_first():
        wait_for_all()
    yield
    if is_first():
        wait_for_all()


def any_asks(flag: bool) -> bool:
    """Whether it is so in any of the processes: all of them then stop at the same step."""
    if processes() == 1:
        return flag
    device = "cuda" if torch.cuda.is_available() else "cpu"
    asked = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
    return bool(asked)


def share_of_step(training: TrainingSection, count: int) -> tuple[int, int]:
    """(rows a pass, passes a step) of each of `count` processes; a step has as many rows as with one process.

    Raises:
        TrainingError: the rows of a step cannot be shared equally.
    """
    rows, passes = training.per_device_train_batch_size, training.gradient_accumulation_steps
    if passes % count == 0:
        return rows, passes // count
    if rows % count == 0:
        return rows // count, passes
    raise TrainingError(
        f"{count} processes cannot share {rows} rows x {passes} passes of a step equally; make "
        f"training.gradient_accumulation_steps or training.per_device_train_batch_size a multiple of {count}, or set "
        "training.processes"
    )


def finetune_here(splits: DatasetDict, settings: Settings, output: Path) -> TrainedAdapter:
    """Fine-tune with all GPUs of this machine, or in as many processes as `training.processes` says."""
    with working("loading TRL and PEFT"):
        from text2sql.training.finetune import finetune

    count = settings.training.processes or max(1, torch.cuda.device_count())
    if count == 1:
        return finetune(splits, settings, output=output)
    share_of_step(settings.training, count)
    return launch(splits, settings, output, count)


def launch(splits: DatasetDict, settings: Settings, output: Path, count: int) -> TrainedAdapter:
    """Fine-tune in `count` processes of this machine; arguments and errors as of `finetune`.

    SIGTERM to this process is handed on, so that the others save a checkpoint and stop.
    """
    with tempfile.TemporaryDirectory(prefix="text2sql-job-") as folder:
        write_job(Path(folder), splits, settings, output)
        environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)), **os.environ}
        process = subprocess.Popen(torchrun(Path(folder), count), env=environment)
        previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            code = process.wait()
        finally:
            signal.signal(signal.SIGTERM, previous)
            process.kill()
        silent = f"the training processes ended with code {code} and left no result; their output says why"
        return read_result(Path(folder), TrainingError(silent))


def torchrun(job: Path, count: int, nodes: int = 1, first: str = "", port: int = 29500) -> list[str]:
    """The command that starts `count` processes of a job on this machine.

    Args:
        nodes: machines; each runs this command, with its number, from 0, in the environment as PET_NODE_RANK.
        first: address of number 0, where `port` is free.
    """
    meeting = (
        [f"--nnodes={nodes}", f"--master-addr={first}", f"--master-port={port}"] if nodes > 1 else ["--standalone"]
    )
    command = [sys.executable, "-m", "torch.distributed.run", *meeting, f"--nproc-per-node={count}"]
    return [*command, f"--shutdown-timeout={STOP_SECONDS}", "-m", "text2sql.training.distributed", str(job)]


def write_job(job: Path, splits: DatasetDict, settings: Settings, output: Path) -> None:
    """What a process needs to know, in a folder that all of them can read."""
    with no_other_bars():
        splits.save_to_disk(str(job / "splits"))
    (job / "settings.json").write_text(settings.model_dump_json(), encoding="utf-8")
    (job / "output.txt").write_text(str(output.absolute()), encoding="utf-8")


def run_job(job: Path) -> None:
    """One process's part of the training that `write_job` described; the first one leaves the result there."""
    from text2sql.training.finetune import finetune

    splits, output = load_from_disk(str(job / "splits")), Path((job / "output.txt").read_text(encoding="utf-8"))
    settings = Settings.model_validate_json((job / "settings.json").read_text(encoding="utf-8"))
    try:
        trained = finetune(splits, settings, output=output)
    except Text2SQLError as error:
        _leave_error(job, type(error).__name__, str(error))
        raise SystemExit(1) from None
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        _leave_error(job, "TrainingError", f"process {_rank()} on {socket.gethostname()} failed: {why}")
        raise
    if is_first():
        (job / "trained.json").write_text(json.dumps({**asdict(trained), "path": str(trained.path)}), encoding="utf-8")


def _leave_error(job: Path, kind: str, message: str) -> None:
    (job / f"error-{_rank()}.json").write_text(json.dumps([kind, message]), encoding="utf-8")


def read_result(job: Path, silent: TrainingError) -> TrainedAdapter:
    """What the processes of a job have left.

    Raises:
        Text2SQLError: as the first of them that failed raised it, for the others fail because of that one; `silent`
            when they were ended without a word.
    """
    from text2sql.training.finetune import TrainedAdapter

    if said := sorted(job.glob("error-*.json"), key=lambda path: path.stat().st_mtime_ns):
        name, message = json.loads(said[0].read_text(encoding="utf-8"))
        raise getattr(errors, name)(message)
    if not (job / "trained.json").is_file():
        raise silent
    found = json.loads((job / "trained.json").read_text(encoding="utf-8"))
    return TrainedAdapter(**{**found, "path": Path(found["path"])})


if __name__ == "__main__":
    run_job(Path(sys.argv[1]))
