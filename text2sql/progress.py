"""Whatever takes more than a moment says so on stderr: a bar or a spinner on a terminal, a plain line elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

PATIENCE = 3.0
"""Seconds that may pass in silence; where stderr is no terminal, what is done sooner writes no line."""
LINE_SECONDS = 15.0
"""Where stderr is no terminal (a pod, CI) a bar writes a line once it takes longer, and then at most this often."""


@contextlib.contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """While `total` things are done one by one; gives a function that is told how many more are."""
    from rich.progress import Progress

    console = _stderr()
    if not console.is_terminal:
        yield _lines(console, label, total)
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)


@contextlib.contextmanager
def working(label: str) -> Iterator[None]:
    """While one thing is done whose end nobody can foresee: the seconds are counted. Not around another bar."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = _stderr()
    if not console.is_terminal:
        line = threading.Timer(PATIENCE, _write, (console, f"{label} …"))
        line.daemon = True
        line.start()
        try:
            yield
        finally:
            line.cancel()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, refresh_per_second=5) as bar:
        bar.add_task(label, total=None)
        yield


@contextlib.contextmanager
def downloading(label: str) -> Iterator[Callable[[int, int], None]]:
    """While bytes come in; gives a function that is told how many are there, of how many. Silent off a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = _stderr()
    if not console.is_terminal:
        yield lambda done, total: None  # noqa: ARG005
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(label, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)


def _lines(console: Any, label: str, total: int) -> Callable[[int], None]:
    done, written = 0, time.monotonic() - LINE_SECONDS + PATIENCE

    def advance(count: int) -> None:
        nonlocal done, written
        done += count
        if time.monotonic() - written >= LINE_SECONDS:
            written = time.monotonic()
            _write(console, f"{label} {done:,}/{total:,}")

    return advance


def _write(console: Any, line: str) -> None:
    console.print(f"  {line}", markup=False, soft_wrap=True)


def _stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True, highlight=False)
