"""The two YAML files of this folder as objects, read once a process."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml


@dataclass(frozen=True)
class Kind:
    """What a column holds: texts to draw from, a range of whole numbers, or a pattern of letters and digits."""

    values: tuple[str, ...] = ()
    range: tuple[int, int, int] | None = None
    pattern: str = ""

    @property
    def is_number(self) -> bool:
        return self.range is not None


@dataclass(frozen=True)
class Entity:
    """A thing that a table can be about; `columns` maps a phrase to the kind it holds."""

    name: str
    plural: str
    columns: Mapping[str, Kind]
    parent: str | None


@dataclass(frozen=True)
class Construct:
    """A shape of SQL with the ways to ask for it; templates as constructs.yaml describes them."""

    name: str
    tables: str
    slots: Mapping[str, str]
    sql: str
    read: bool
    base: tuple[str, ...]
    more: tuple[str, ...]


@functools.cache
def entities() -> Mapping[str, Entity]:
    """Every entity by name."""
    raw = _read("domains.yaml")
    kinds = {name: _kind(text) for name, text in raw["kinds"].items()}
    found: dict[str, Entity] = {}
    for domain in raw["domains"].values():
        for name, entity in domain.items():
            columns = {phrase: kinds[kind] for phrase, kind in entity["columns"].items()}
            found[name] = Entity(name, entity["plural"], columns, entity.get("of"))
    return found


@functools.cache
def constructs() -> tuple[Construct, ...]:
    """Every construct, in the order of the file."""
    return tuple(
        Construct(
            name=name,
            tables="".join(text.get("tables", ["t"])),
            slots=text.get("slots", {}),
            sql=text["sql"],
            read=text.get("read", False),
            base=tuple(text.get("base", ())),
            more=tuple(text.get("more", ())),
        )
        for name, text in _read("constructs.yaml").items()
    )


def _kind(text: dict[str, Any]) -> Kind:
    bounds = text.get("range")
    return Kind(tuple(text.get("values", ())), tuple(bounds) if bounds else None, text.get("pattern", ""))


def _read(name: str) -> Any:
    return yaml.safe_load(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))
