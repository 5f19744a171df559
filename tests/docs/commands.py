"""The commands that the pages tell people to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from tests.docs.pages import code_spans, fences

SHELL = ("", "bash", "bash run", "sh", "console")
_VARIABLE = re.compile(r"^\w+=\S*$")
_ENDS = ("|", "||", "&&", ";", ">", ">>", "<", "#", "&")


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """(program, arguments) of every command of ours in a page's shell blocks and code spans."""
    found = (_ours(words) for text in _texts(page) for words in _simple_commands(text))
    return [command for command in found if command is not None]


def _ours(words: list[str]) -> tuple[str, list[str]] | None:
    match [Path(words[0]).name, *words[1:]]:
        case ["make", *rest]:
            return "make", rest
        case ["python", "run.py", *rest]:
            return "run.py", rest
        case ["run.py", option, *rest] if option.startswith("--"):
            return "run.py", [option, *rest]
        case ["python", "-m", "text2sql", *rest]:
            return "-m text2sql", rest
    return None


def _texts(page: Path) -> Iterator[str]:
    for fence in fences(page):
        if fence.info in SHELL:
            yield from re.sub(r"\\\n\s*", "", fence.text).splitlines()
    for span in code_spans(page):
        if re.match(r"(?:\w+=\S+ )*(?:python (?:run\.py|-m text2sql) |run\.py --|make )", span):
            yield " ".join(span.split())


def _simple_commands(line: str) -> Iterator[list[str]]:
    """The commands of a line: words between && and the like, without variables before them."""
    try:
        words = shlex.split(line.replace("[", "").replace("]", "") if "[--" in line else line, comments=True)
    except ValueError:  # a quote that the next line closes: not ours
        return
    command: list[str] = []
    for word in [*words, ";"]:
        if word not in _ENDS:
            command.append(word)
            continue
        while command and _VARIABLE.match(command[0]):
            command.pop(0)
        if command:
            yield command
        command = []
        if word in (">", ">>", "<"):
            return
