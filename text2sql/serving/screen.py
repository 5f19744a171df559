"""What the prompt shows. Queries go to standard output, all else to standard error; nothing of a model's or a
database's words reaches the terminal as a command to it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.live import Live
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from text2sql.serving.messages import Fault, GenerateResponse, Result

ROWS = 50
"""Rows of a result that are shown."""
_CELL_CHARS = 200
# C0 and C1 but tab and line feed, then what changes the direction of text or cannot be seen.
_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


def inert(text: str) -> str:
    """The text with everything that a terminal would obey written out, \\x1b for an escape."""
    return _COMMANDS.sub(lambda match: ascii(match.group())[1:-1], text)


class Screen:
    """Standard output and error, each with as much colour as it can take."""

    def __init__(self, out: TextIO, err: TextIO, environment: Mapping[str, str], streams: bool) -> None:
        """Args:
        streams: whether somebody watches answers grow.
        """
        self._out = out
        self._quiet = "NO_COLOR" in environment and bool(environment["NO_COLOR"])
        self._dumb = environment.get("TERM", "") in ("dumb", "unknown")
        self.answers, self.notes = self._console(out), self._console(err)
        self.on_terminal = out.isatty()
        self._streams = streams and self.on_terminal
        self._grown = ""
        """What stands there already, of an answer that grew without colours."""

    def _console(self, file: TextIO) -> Console:
        colours = file.isatty() and not self._quiet and not self._dumb
        return Console(
            file=file,
            force_terminal=colours,
            force_interactive=colours,
            color_system="auto" if colours else None,
            highlight=False,
            markup=False,
            emoji=False,
        )

    @property
    def coloured(self) -> bool:
        """Whether standard output takes escape sequences."""
        return self.answers.is_terminal

    def say(self, words: str, style: str = "") -> None:
        """A note."""
        self.notes.print(Text(inert(words), style=style), soft_wrap=True)

    def complain(self, words: str) -> None:
        """Something went wrong."""
        self.say(f"error: {words}", "red")

    @contextlib.contextmanager
    def working(self, words: str) -> Iterator[None]:
        """While something takes time."""
        if not self.notes.is_terminal:
            self.say(words)
            yield
            return
        with self.notes.status(Text(inert(words))):
            yield

    @contextlib.contextmanager
    def growing(self) -> Iterator[Callable[[str], None] | None]:
        """What takes the text of an answer that grows; None where nobody watches."""
        if not self._streams:
            yield None
        elif self.coloured:
            with Live(Text("…", style="dim"), console=self.answers, transient=True, auto_refresh=False) as live:
                said = ""

                def tell(text: str) -> None:
                    nonlocal said
                    said += text
                    live.update(Text(inert(said), style="dim"), refresh=True)

                yield tell
        else:
            parts: list[str] = []

            def write(text: str) -> None:
                parts.append(text)
                self._write(inert(text))

            try:
                yield write
            finally:
                self._write("\n")
                self._grown = "".join(parts)

    def answer(self, response: GenerateResponse) -> bool:
        """An answer with what the guard says of it; whether it can be used.

        A pipe gets a valid query and its `;`, or a comment in its place. One with characters that terminals obey is
        withheld from it: whoever reads on may show them.
        """
        clean = inert(response.sql) == response.sql
        grown, self._grown = self._grown.strip(), ""
        if self.on_terminal:
            if not grown or grown != response.sql:
                self._query(response.sql)
        elif response.valid and clean:
            self._write(f"{response.sql};\n")
        else:
            why = _reasons(response.reasons) or "the query holds characters that terminals obey"
            self._write(f"-- no valid answer: {_line(why)}\n")
        if response.valid:
            repaired = ", after one more try" if response.repaired else ""
            self.say(f"✓ passed every check{repaired} · {_facts(response)}", "green")
        else:
            self.say(f"✗ did not pass the checks · {_facts(response)}", "red")
            for fault in response.reasons:
                self.say(f"  {fault.message} ({fault.code})", "red")
        if len(response.candidates) > 1:
            self._candidates(response)
        if response.result is not None:
            self.rows(response.result)
        return response.valid and (clean or self.on_terminal)

    def rows(self, result: Result) -> None:
        """A result as a table."""
        table = Table(header_style="bold", show_edge=False, pad_edge=False)
        for i, name in enumerate(result.columns):
            cells = [row[i] for row in result.rows if row[i] is not None]
            number = bool(cells) and all(isinstance(cell, int | float) for cell in cells)
            table.add_column(Text(_line(name)), justify="right" if number else "left", overflow="fold")
        for row in result.rows[:ROWS]:
            table.add_row(*(Text("NULL", style="dim italic") if c is None else Text(_line(str(c))) for c in row))
        if result.columns and result.rows:
            self.notes.print(table)
        count = len(result.rows)
        words = f"{count} row{'' if count == 1 else 's'}"
        if count > ROWS:
            words = f"the first {ROWS} of {words}"
        self.say(f"({words}; truncated: there is more)" if result.truncated else f"({words})", "dim")

    def _query(self, sql: str) -> None:
        text = inert(sql) or "(no query)"
        if self.coloured:
            self.answers.print(Syntax(text, "sql", theme="ansi_dark", background_color="default", word_wrap=True))
        else:
            self._write(f"{text}\n")

    def _candidates(self, response: GenerateResponse) -> None:
        self.say(f"{len(response.candidates)} different candidates were judged:")
        for one in response.candidates:
            self.say(f"  {'✓' if one.valid else '✗'} {one.sql}", "" if one.valid else "dim")
            if not one.valid:
                self.say(f"      {_reasons(one.reasons)}", "dim")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _reasons(faults: list[Fault]) -> str:
    return "; ".join(fault.message for fault in faults)


def _line(text: str) -> str:
    """In one line of bounded length."""
    text = inert(text).replace("\n", "\\n").replace("\t", " ")
    return text if len(text) <= _CELL_CHARS else text[: _CELL_CHARS - 1] + "…"


def _facts(response: GenerateResponse) -> str:
    milliseconds = response.latency_ms
    took = f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"
    return f"{took} · {response.usage.completion_tokens} tokens · {response.dialect}"
