"""A config file and its overrides as `Settings`, or everything that is wrong with them in one `ConfigError`."""

from __future__ import annotations

import copy
import difflib
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from text2sql.config import Section, Settings
from text2sql.errors import ConfigError


def load_settings(path: Path, overrides: tuple[str, ...] | list[str] = ()) -> Settings:
    """Settings from a YAML file with `section.key=value` overrides, values written as in YAML.

    Raises:
        ConfigError: with every problem found: file, syntax, unknown keys, types, combinations.
    """
    raw = _read_yaml(path)
    problems = [problem for override in overrides if (problem := _apply(raw, override))]
    settings, more = _validate(raw)
    problems += more
    if settings is not None:
        problems += settings.contradictions()
    if problems or settings is None:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return settings


def _validate(raw: dict[str, Any]) -> tuple[Settings | None, list[str]]:
    """The settings, or every problem.

    Pydantic checks how settings fit together only once each of them is right alone, so what is wrong is noted, taken
    out, and the rest checked again.
    """
    problems: list[str] = []
    rest = copy.deepcopy(raw)
    while True:
        try:
            return Settings.model_validate(rest), problems
        except ValidationError as error:
            found = error.errors(include_url=False)
        problems += [_explain(details) for details in found]
        if not sum(_remove(rest, details["loc"]) for details in found):  # all of them; any() would stop at the first
            return None, problems


def _remove(raw: dict[str, Any], location: tuple[int | str, ...]) -> bool:
    """Delete the value at a location, or the nearest mapping entry above it; False when there is none to delete.

    A mapping that this empties goes too: `gate.bleu: {}` would be reported as a problem that the user does not have.
    """
    entries: list[tuple[dict[str, Any], str]] = []
    node: Any = raw
    for part in location:
        if not isinstance(node, dict) or part not in node:
            break
        entries.append((node, str(part)))
        node = node[part]
    if not entries:
        return False
    while entries:
        parent, key = entries.pop()
        del parent[key]
        if parent:
            break
    return True


class UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping; YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeys)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        shipped = ", ".join(sorted(str(p) for p in Path("configs").glob("*.yaml"))) or "none in ./configs"
        raise ConfigError([f"no config file {path}; shipped ones: {shipped}"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"cannot read config file {path}: {error}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{path} is not valid YAML: {' '.join(str(error).split())}"]) from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError([f"{path} must hold sections such as `model:` and `data:`, and holds {type(raw).__name__}"])
    return raw


def _apply(raw: dict[str, Any], override: str) -> str | None:
    """Set one `a.b=value` in place; a problem is returned as text."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        return f"--set {override!r}: write section.key=value, e.g. training.learning_rate=1e-4"
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return f"--set {override!r}: the value is not valid YAML; quote it"
    *parents, leaf = key.strip().split(".")
    node = raw
    for parent in parents:
        child = node.get(parent)
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            return f"--set {override!r}: {parent} is a value, not a section"
        node = child
    node[leaf] = value
    return None


def _explain(details: ErrorDetails) -> str:
    """One line: key, value, what is wrong, nearest valid key."""
    location = [str(part) for part in details["loc"]]
    key = ".".join(location) or "config"
    if details["type"] == "extra_forbidden":
        valid = valid_keys()
        near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
        if not near:  # right key, wrong section
            near = [name for name in valid if name.rsplit(".", 1)[-1] == location[-1]][:1]
        hint = f"; did you mean {near[0]}?" if near else f"; sections are {', '.join(sections())}"
        return f"unknown key {key} (= {details['input']!r}){hint}"
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "string_type":
        message += "; put it in quotes"
    if isinstance(details["input"], dict | Section):
        return f"{key}: {message}"
    return f"{key} = {details['input']!r}: {message}"


def valid_keys(section: type[Section] = Settings, prefix: str = "") -> list[str]:
    """Every key that a config may hold, dotted: `model.name`, …, `gate.exact_match.min`."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        if get_origin(field.annotation) is dict:  # its keys are the user's
            continue
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                keys += valid_keys(kind, f"{prefix}{name}.")
    return keys


def sections() -> list[str]:
    """Names of the top-level sections."""
    return [name for name, field in Settings.model_fields.items() if isinstance(field.default, Section)]
