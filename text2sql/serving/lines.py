"""Lines that a user types, with editing, a history and completion; or lines from a pipe."""

from __future__ import annotations

import contextlib
import glob
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from text2sql.serving.screen import Screen

COMMANDS = ("/schema ", "/db ", "/csv ", "/explain", "/n ", "/dialect ", "/help", "/quit")
_HISTORY_LINES = 1_000
_PROMPT = "text2sql> "


def history_file() -> Path:
    """Where what was typed is kept between sessions: the XDG Base Directory's place for state."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "text2sql" / "history"


class Lines(Iterator[str]):
    """An iterator; the end of the input (Ctrl-D) ends it. Use it by `with`.

    Without readline, or where the history cannot be kept, it does without.
    """

    def __init__(self, screen: Screen, interactive: bool) -> None:
        self._screen, self._interactive = screen, interactive
        self._readline: Any = None
        self._history: Path | None = None
        self._completions: list[str] = []
        self._prompt = _PROMPT
        if interactive and screen.coloured:
            # 1 and 2 enclose what takes no room, so that readline counts right.
            self._prompt = f"\x01\x1b[1;36m\x02{_PROMPT}\x01\x1b[0m\x02"

    def __enter__(self) -> Self:
        if isinstance(sys.stdin, io.TextIOWrapper):  # file names need not be UTF-8; a question that is not is refused
            sys.stdin.reconfigure(errors="surrogateescape")
        if self._interactive and self._screen.on_terminal:
            with contextlib.suppress(ImportError):
                import readline

                self._readline = readline
                self._prepare()
        return self

    def __exit__(self, *_: object) -> None:
        if self._readline is not None:
            self._readline.set_completer(None)

    def __next__(self) -> str:
        if not self._interactive:
            line = sys.stdin.readline()
            if not line:
                raise StopIteration
            return line
        try:
            if self._screen.on_terminal:
                line = input(self._prompt)
            else:  # `input` would write its prompt among the queries
                self._screen.notes.print(_PROMPT, end="")
                line = input()
        except EOFError:
            self._screen.say("")
            raise StopIteration from None
        except KeyboardInterrupt:
            self._screen.say("")
            raise
        self._remember(line)
        return line

    def _prepare(self) -> None:
        readline = self._readline
        readline.set_auto_history(False)
        readline.set_history_length(_HISTORY_LINES)
        readline.set_completer_delims(" \t")
        readline.set_completer(self._complete)
        readline.parse_and_bind("tab: complete")
        # Or pasted lines would be taken for typed ones, and a terminal told of it in escape sequences.
        readline.parse_and_bind(f"set enable-bracketed-paste {'on' if self._screen.coloured else 'off'}")
        path = history_file()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            readline.clear_history()
            readline.read_history_file(path)
        except OSError as error:
            self._screen.say(f"no history is kept: {path}: {error.strerror or error}", "dim")
            return
        self._history = path

    def _remember(self, line: str) -> None:
        """At once, so that nothing is lost when the process is; a database URL may hold a password, and is not kept."""
        readline = self._readline
        if readline is None or not line.strip() or "://" in line:
            return
        last = readline.get_current_history_length()
        if last and readline.get_history_item(last) == line:
            return
        readline.add_history(line)
        if self._history is not None:
            with contextlib.suppress(OSError):
                readline.write_history_file(self._history)

    def _complete(self, text: str, state: int) -> str | None:
        """What readline asks for with states from 0 on, until there is no more."""
        if state == 0:
            self._completions = _completions(text, first=self._readline.get_begidx() == 0)
        return self._completions[state] if state < len(self._completions) else None


def _completions(text: str, first: bool) -> list[str]:
    """Commands at the start of a line, file names behind them."""
    if first:
        return [command for command in COMMANDS if command.startswith(text)] if text.startswith("/") else []
    paths = sorted(glob.glob(glob.escape(os.path.expanduser(text)) + "*"))  # noqa: PTH111, PTH207 - as typed
    return [f"{path}/" if os.path.isdir(path) else path for path in paths]  # noqa: PTH112
