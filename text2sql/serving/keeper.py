"""Stands between a server and whoever started it, so that nothing of the server outlives either.

    python -I keeper.py LOG GRACE COMMAND...

The command gets a session of its own; its process id is told on stdout. When it exits, or when stdin closes (the
starter stopped it, or was killed: a pipe closes even then), everything that descends from it is ended, whatever
sessions it fled to: as a subreaper (Linux) the keeper inherits what is orphaned. It knows nothing of this project and
imports the standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
KILL_SECONDS = 10.0
"""How long it insists on what does not die of SIGKILL (a process in the kernel's hands)."""


def main(log: str, grace: str, *command: str) -> int:
    """The command's exit code, or 128 + the signal that ended it."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: asked.append(number))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        with Path(log).open("ab") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509 - there are no threads
            )
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 127
    os.write(1, f"{child.pid}\n".encode())
    status: int | None = None
    while status is None and not asked:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
        status = _reap().get(child.pid)
        if 0 in ready and not os.read(0, 4096):
            break
    status = _end(child.pid, float(grace), status)
    code = 1 if status is None else os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code  # as a shell says it


def _end(leader: int, grace: float, status: int | None) -> int | None:
    """Ask, wait, kill; the leader's wait status."""
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, KILL_SECONDS)):
        until = time.monotonic() + seconds
        told: set[int] = set()
        while (left := descendants(leader)) and time.monotonic() < until:
            for pid in left - told if number == signal.SIGTERM else left:
                _signal(pid, number)
            told |= left
            time.sleep(0.02)
            status = _reap().get(leader, status)
    return _reap().get(leader, status)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def descendants(leader: int) -> set[int]:
    """Every process below this one; without /proc the leader's group, as long as it is there."""
    if not Path("/proc/self/stat").exists():
        try:
            os.killpg(leader, 0)
        except (ProcessLookupError, PermissionError):
            return set()
        return {-leader}
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text("utf-8", "replace")
            except OSError:
                continue
            state, parent = text.rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(entry.name))
    found: set[int] = set()
    open_ = [os.getpid()]
    while open_:
        below = children.get(open_.pop(), [])
        found.update(below)
        open_ += below
    return found


def _reap() -> dict[int, int]:
    """Wait statuses of children that have ended, by process id."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the closed pipe and the group have to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
