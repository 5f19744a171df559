"""The files of stacks/, read: a stack a file, or everything that is wrong with it at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from stacks.spec import StackFile
from text2sql.config_file import UniqueKeys
from text2sql.errors import StackError

FOLDER = Path(__file__).parent
LOCAL = "default"
"""The stack that ZenML brings along; local.yaml speaks for it."""


def shipped() -> list[str]:
    """Names of the stacks that have a file."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def has_file(name: str) -> bool:
    """Whether stacks/<name>.yaml is there."""
    return name in shipped()


def read_stack(name: str) -> StackFile:
    """stacks/<name>.yaml.

    Raises:
        StackError: it is not there or wrong; every problem on a line of its own.
    """
    path = FOLDER / f"{name}.yaml"
    if not has_file(name):
        raise StackError(f"no stack {name!r}: there is no {_shown(path)}; there are: {', '.join(shipped())}")
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeys)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StackError(f"{_shown(path)} cannot be read: {' '.join(str(error).split())}") from error
    return parse_stack(raw, _shown(path))


def parse_stack(raw: Any, source: str) -> StackFile:
    """A stack from parsed YAML; `source` is what its problems are about.

    Raises:
        StackError: every problem on a line of its own.
    """
    try:
        stack = StackFile.model_validate(raw or {})
    except ValidationError as error:
        problems = [_explain(entry) for entry in error.errors(include_url=False)]
    else:
        problems = stack.contradictions()
        if not problems:
            return stack
    raise StackError("\n".join(f"{source}: {problem}" for problem in dict.fromkeys(problems)))


def _explain(entry: Any) -> str:
    where = ".".join(str(part) for part in entry["loc"] if part != "[key]") or "file"
    message = str(entry["msg"]).removeprefix("Value error, ")
    if entry["type"] == "extra_forbidden":
        return f"unknown key {where} (= {entry['input']!r})"
    value = entry["input"]
    told = isinstance(value, dict) or (isinstance(value, str) and repr(value) in message)
    shown = "" if told else f" = {value!r}"
    return f"{where}{shown}: {message}"


def _shown(path: Path) -> str:
    return f"stacks/{path.name}"
