"""Work on untrusted rows in processes that may hang, crash or eat memory without hurting the run.

Each worker is a fresh `python -m text2sql.sql.workers module:function`, so it inherits no threads, locks, GPU or
secrets, starts in a fraction of a second, and can be killed. Items and answers travel as JSON lines over its pipes. An
item on which the function raises, or its worker dies or exceeds its time, gets what `on_failure` makes of it; a new
worker goes on behind a dead one.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from text2sql.sql.execute import die_when_stuck

_CHUNK = 64
_ITEMS_WORTH_A_PROCESS = 8
_PATROL_SECONDS = 0.05
_START_SECONDS = 60.0
_ERROR_CHARS = 300
MEMORY_BYTES = 2 << 30
"""Address space of a worker."""
_WORN_BYTES = 768 << 20
"""A worker that holds this much when it has answered makes room for a fresh one: more than any one query may need."""


@dataclass(frozen=True)
class Failure:
    """Why an item has no answer."""

    words: str
    """One line."""
    late: bool = False
    """It ran out of its time."""


def process_count() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_command(function: str) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of a worker: of the caller's environment only what Python needs to start."""
    root = str(Path(__file__).resolve().parents[2])
    keep = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "VIRTUAL_ENV")
    environment = {name: os.environ[name] for name in keep if name in os.environ}
    environment |= {"PYTHONPATH": root, "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"}
    # -P: no module of the current folder
    return [sys.executable, "-P", "-m", "text2sql.sql.workers", function], environment


def map_rows(
    function: str,
    items: Sequence[Any],
    seconds_an_item: float,
    on_failure: Callable[[Any, Failure], Any],
    processes: int | None = None,
    on_done: Callable[[int], None] | None = None,
) -> list[Any]:
    """`function` ("module:name") of each item, in order; items and answers are JSON values.

    Args:
        seconds_an_item: after this long on one item its worker is killed.
        on_failure: the answer for an item that got none.
        on_done: told how many items have been answered since it was last called; called from one thread at a time.
    """
    answers: list[Any] = [None] * len(items)
    count = processes or process_count()
    size = max(min(_CHUNK, len(items) // (4 * count)), 1)
    chunks = deque(range(start, min(start + size, len(items))) for start in range(0, len(items), size))
    count = min(count, -(-len(items) // _ITEMS_WORTH_A_PROCESS))
    lock = threading.Lock()

    def answered(index: int, answer: Any) -> None:
        answers[index] = answer
        if on_done:
            with lock:
                on_done(1)

    workers = [_Worker(function, items, chunks, seconds_an_item, on_failure, answered) for _ in range(count)]
    try:
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            for worker in workers:
                worker.patrol()
            workers[0].join(_PATROL_SECONDS) if workers[0].is_alive() else time.sleep(_PATROL_SECONDS)
    finally:
        for worker in workers:
            worker.stop()
    for worker in workers:
        worker.join()
        if worker.error:
            raise worker.error
    return answers


class _Worker(threading.Thread):
    """A thread that feeds one process, and starts another when that one dies."""

    def __init__(
        self,
        function: str,
        items: Sequence[Any],
        chunks: deque[range],
        seconds: float,
        on_failure: Callable[[Any, Failure], Any],
        answered: Callable[[int, Any], None],
    ) -> None:
        super().__init__(daemon=True, name=f"worker of {function}")
        self.error: BaseException | None = None
        self._function, self._items, self._chunks = function, items, chunks
        self._seconds, self._on_failure, self._answered = seconds, on_failure, answered
        self._process: subprocess.Popen[str] | None = None
        self._expires = float("inf")
        self._late = self._stopped = False
        self._lock = threading.Lock()
        """Held to look at or to change what the caller's thread shares: the process, its expiry, both flags."""

    def run(self) -> None:
        try:
            while not self._stopped:
                try:
                    chunk = self._chunks.popleft()
                except IndexError:
                    return
                self._work(chunk)
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            self.error = error
        finally:
            self._end()

    def patrol(self) -> None:
        """Kill the process when its item has taken too long; called from outside."""
        with self._lock:
            if self._process is not None and time.monotonic() > self._expires:
                self._late, self._expires = True, float("inf")
                self._process.kill()

    def stop(self) -> None:
        """Give up: on an exception in the caller nothing may be left running."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def _work(self, chunk: range) -> None:
        index = chunk.start
        while index < chunk.stop and not self._stopped:
            process = self._process or self._begin()
            assert process.stdin is not None  # noqa: S101 - for the type checker
            lines = [json.dumps(self._items[i]) + "\n" for i in range(index, chunk.stop)]
            feeder = threading.Thread(target=_feed, args=(process, lines), daemon=True)
            feeder.start()
            index = self._collect(process, index, chunk.stop)
            feeder.join()

    def _collect(self, process: subprocess.Popen[str], index: int, stop: int) -> int:
        """Read answers up to `stop`, or to where the process died; the index to go on from."""
        while index < stop:
            line, late = self._read(process, self._seconds)
            if not line.endswith("\n"):
                code = self._end()
                if not self._stopped:
                    failure = Failure(f"took more than {self._seconds:g} s", late) if late else _death(code)
                    self._answered(index, self._on_failure(self._items[index], failure))
                return index + 1
            said = json.loads(line)
            raised = self._on_failure(self._items[index], Failure(said["error"])) if "error" in said else None
            self._answered(index, said.get("answer", raised))
            index += 1
            if late or said.get("worn"):  # killed just as it answered: the next item must not be blamed
                self._end()
                return index
        return index

    def _read(self, process: subprocess.Popen[str], seconds: float) -> tuple[str, bool]:
        """A line, cut short where the process died, and whether that was for being late."""
        assert process.stdout is not None  # noqa: S101
        with self._lock:
            self._expires = time.monotonic() + seconds
        line = process.stdout.readline()
        with self._lock:
            late, self._late, self._expires = self._late, False, float("inf")
        return line, late

    def _begin(self) -> subprocess.Popen[str]:
        command, environment = worker_command(self._function)
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        with self._lock:
            self._process = process
            if self._stopped:  # meanwhile
                process.kill()
        ready, _ = self._read(process, _START_SECONDS)
        if ready.strip() != "ready" and not self._stopped:
            code = process.wait()
            self._end()
            raise RuntimeError(f"a worker for {self._function} did not start (exit code {code}); see its error above")
        return process

    def _end(self) -> int | None:
        """Make sure that the process is gone; its exit code, which is -N where signal N ended it."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        return process.returncode if process is not None else None


def how_it_died(code: int | None) -> str:
    """Words for a worker's exit code."""
    return _death(code).words


def _death(code: int | None) -> Failure:
    if code == -getattr(signal, "SIGALRM", 0):
        return Failure("a query went on past its deadline and could not be interrupted", late=True)
    return Failure("the worker process died")


def _feed(process: subprocess.Popen[str], lines: list[str]) -> None:
    """Write in a thread of its own: a pipe holds 64 KiB, and the process answers while it reads."""
    assert process.stdin is not None  # noqa: S101
    with contextlib.suppress(OSError, ValueError):  # the process died; its answers end, which the reader sees
        for line in lines:
            process.stdin.write(line)
        process.stdin.flush()


def _limit_resources() -> None:
    """Less memory than would hurt the machine, no files, no child processes' core dumps."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    for what, limit in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(what)
        if hard == resource.RLIM_INFINITY or limit <= hard:
            resource.setrlimit(what, (limit, limit))


def _answer(function: Callable[[Any], Any], item: Any) -> str:
    """A JSON object with the function's `answer`, or the `error` that it raised; `worn` if it should be the last."""
    try:
        said = {"answer": function(item)}
    except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this item alone
        text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
        said = {"error": text if len(text) <= _ERROR_CHARS else text[: _ERROR_CHARS - 1] + "…"}
    if _resident_bytes() > _WORN_BYTES:
        said["worn"] = True
    return json.dumps(said)


def _resident_bytes() -> int:
    """Memory that this process holds, 0 where /proc does not tell; `resource` knows a peak with the parent's in it."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - a third of pathlib's time, for every item
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def main() -> None:
    """The worker's side: answer a line for each line, until standard input ends."""
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    output = sys.stdout
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - nothing but answers may reach the pipe
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business, which ends its workers
    _limit_resources()
    die_when_stuck()
    output.write("ready\n")
    output.flush()
    for line in sys.stdin:
        output.write(_answer(function, json.loads(line)) + "\n")
        output.flush()


if __name__ == "__main__":
    main()
