"""The commands that the pages tell people to type."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.docs.pages import code_spans, fences

SHELL = ("", "bash", "bash run", "sh", "console")
_VARIABLE = re.compile(r"^\w+=\S*$")
_ENDS = ("|", "||", "&&", ";", ">", ">>", "<", "#", "&")


@dataclass(frozen=True)
class Command:
    """One of ours: `make`, `run.py` or `-m text2sql`."""

    program: str
    arguments: list[str]
    variables: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join((self.program, *self.arguments))


def commands(page: Path) -> list[Command]:
    """Every command of ours in a page's shell blocks and code spans."""
    found = (_ours(words) for text in _texts(page) for words in _simple_commands(text))
    return [command for command in found if command is not None]


def library_commands(shell: str) -> list[Command] | None:
    """The commands of a block that has nothing but `python -m text2sql`, without a pipe and the like; else None."""
    try:
        lines = [shlex.split(line, comments=True) for line in re.sub(r"\\\n\s*", "", shell).splitlines()]
    except ValueError:  # a quote that another line closes
        return None
    found = [None if set(words) & {*_ENDS} else _ours(words) for words in lines if words]
    ours = [command for command in found if command is not None and command.program == "-m text2sql"]
    return ours if ours and len(ours) == len(found) else None


def _ours(words: list[str]) -> Command | None:
    given = list(itertools.takewhile(_VARIABLE.match, words))
    match words[len(given) :]:
        case [program, *rest] if Path(program).name == "make":
            found = "make", rest
        case [python, "run.py", *rest] if Path(python).name == "python":
            found = "run.py", rest
        case ["run.py", option, *rest] if option.startswith("--"):
            found = "run.py", [option, *rest]
        case [python, "-m", "text2sql", *rest] if Path(python).name == "python":
            found = "-m text2sql", rest
        case _:
            return None
    return Command(*found, dict(text.split("=", 1) for text in given))


def _texts(page: Path) -> Iterator[str]:
    for fence in fences(page):
        if fence.info in SHELL:
            yield from re.sub(r"\\\n\s*", "", fence.text).splitlines()
    for span in code_spans(page):
        if re.match(r"(?:\w+=\S+ )*(?:python (?:run\.py|-m text2sql) |run\.py --|make )", span):
            yield " ".join(span.split())


def _simple_commands(line: str) -> Iterator[list[str]]:
    """The commands of a line: words between && and the like, as far as the first redirection."""
    try:
        words = shlex.split(line.replace("[", "").replace("]", "") if "[--" in line else line, comments=True)
    except ValueError:  # a quote that the next line closes: not ours
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if word not in _ENDS:
            command.append(word)
            continue
        if command:
            yield command
        command = []
        if word in (">", ">>", "<"):
            return
