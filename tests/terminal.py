"""A command whose stderr is a terminal, as it is for whoever types it."""

from __future__ import annotations

import os
import re
import subprocess
import termios
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

SIZE = (40, 120)
"""Lines and columns."""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


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
    stdout, _ = process.communicate()
    reader.join(30)
    os.close(leader)
    text = sent.decode(errors="replace")
    return subprocess.CompletedProcess(command, process.returncode, stdout, text), CONTROL.sub("", text)
