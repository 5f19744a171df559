"""A command whose stderr is a terminal, as it is for whoever types it."""

from __future__ import annotations

import os
import re
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SIZE = (40, 120)
"""Lines and columns."""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"
"""The cursor is hidden while a bar or a spinner is on."""


@dataclass
class Silence:
    """The longest time in which nothing was written and no bar or spinner was on, for `told` of `on_terminal`.

    In seconds of the processor, since others may be at work on the machine, and by the clock.
    """

    worked: float = 0.0
    waited: float = 0.0
    after: str = ""
    """What was on the terminal before `worked`."""
    _is_shown: bool = False
    _last: tuple[float, float, str] | None = None

    def __call__(self, process: int, piece: bytes) -> None:
        now = _processor_seconds(process), time.monotonic()
        if self._last is not None and not self._is_shown:
            worked, waited = now[0] - self._last[0], now[1] - self._last[1]
            self.waited = max(self.waited, waited)
            if worked > self.worked:
                self.worked, self.after = worked, self._last[2]
        hidden, shown = piece.rfind(HIDE), piece.rfind(SHOW)
        self._is_shown = hidden > shown if hidden != shown else self._is_shown
        self._last = *now, CONTROL.sub("", piece.decode(errors="replace"))[-80:]


def _processor_seconds(process: int) -> float:
    """What it has used of the processor, all threads together."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def on_terminal(
    command: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    told: Callable[[int, bytes], None] | None = None,
) -> tuple[subprocess.CompletedProcess[str], str]:
    """What it did, with `stderr` as it was sent, and that text without control sequences.

    `told` is called with the process's id and each piece when it comes.
    """
    leader, follower = os.openpty()
    termios.tcsetwinsize(follower, SIZE)  # as it is opened it has no room for anything
    sent = bytearray()

    def read() -> None:
        try:
            while piece := os.read(leader, 65_536):
                sent.extend(piece)
                if told is not None:
                    told(process.pid, piece)
        except OSError:  # the last one that wrote to it has gone
            pass

    process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=follower, text=True)
    os.close(follower)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        stdout, _ = process.communicate()
    finally:  # a test that is out of time leaves nothing running
        process.kill()
    reader.join(30)
    os.close(leader)
    text = sent.decode(errors="replace")
    return subprocess.CompletedProcess(command, process.returncode, stdout, text), CONTROL.sub("", text)
