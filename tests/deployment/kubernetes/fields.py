"""Server-side apply over plain objects: who manages which field, who may change it, what goes when nobody wants it."""

from __future__ import annotations

import copy
from typing import Any

Path = tuple[str, ...]
Owners = dict[Path, set[str]]
IDENTITY = {("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace")}


def leaves(value: Any, path: Path = ()) -> dict[Path, Any]:
    """Fields by their path; a list is one field here, where the real one merges some by key."""
    if isinstance(value, dict) and value:
        return {found: leaf for key, part in value.items() for found, leaf in leaves(part, (*path, key)).items()}
    return {} if path in IDENTITY else {path: value}


def conflicts(live: dict[str, Any], owners: Owners, wanted: dict[str, Any], manager: str) -> dict[Path, str]:
    """Fields that another manager holds at another value."""
    now = leaves(live)
    return {
        path: ", ".join(sorted(others))
        for path, value in leaves(wanted).items()
        if (others := owners.get(path, set()) - {manager}) and now.get(path) != value
    }


def apply(live: dict[str, Any], owners: Owners, wanted: dict[str, Any], manager: str, force: bool) -> dict[str, Any]:
    """The object after it; `owners` is changed with it."""
    made = copy.deepcopy(live)
    fields = leaves(wanted)
    for path in [path for path, who in owners.items() if manager in who and path not in fields]:
        owners[path].discard(manager)
        if not owners[path]:
            del owners[path]
            _remove(made, path)
            for end in range(len(path) - 1, 0, -1):  # and what is empty by that, where nobody manages it
                if not any(other[:end] == path[:end] for other in owners) and _at(made, path[:end]) == {}:
                    _remove(made, path[:end])
    for path, value in fields.items():
        if force:
            owners[path] = set()
        owners.setdefault(path, set()).add(manager)
        _set(made, path, copy.deepcopy(value))
    return made


def _set(target: dict[str, Any], path: Path, value: Any) -> None:
    for key in path[:-1]:
        target = target.setdefault(key, {})
    target[path[-1]] = value


def _remove(target: dict[str, Any], path: Path) -> None:
    for key in path[:-1]:
        target = target.get(key, {})
    target.pop(path[-1], None)


def _at(target: Any, path: Path) -> Any:
    for key in path:
        target = target.get(key) if isinstance(target, dict) else None
    return target
