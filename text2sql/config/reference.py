"""docs/configuration.md and the README's table of settings, made of nothing but the classes of this package.

python -m text2sql.config.reference > docs/configuration.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from text2sql.config.evaluation import Beats, Threshold
from text2sql.config.section import Section
from text2sql.config.settings import Settings

OPENING = """\
# Configuration

<!-- Written by `make docs` from the classes in text2sql/config/; a test compares. -->

A YAML file says what to train (`--config`), and `--set section.key=value` overrides any key of it, values written as in
YAML. Keys that a file leaves out have the defaults below, which `configs/mistral_7b.yaml` spells out. Unknown keys,
wrong types and combinations that cannot work are errors, all of them at once. The server has settings of its own
([serving.md](serving.md#settings)), and so have stacks ([kubernetes.md](kubernetes.md#stacks)).
"""
CHANGED = (
    "name",
    "output_dir",
    "model.name",
    "model.quantization_bits",
    "lora.r",
    "data.path",
    "data.dataset_name",
    "data.subset_fraction",
    "training.num_train_epochs",
    "training.learning_rate",
    "training.per_device_train_batch_size",
    "training.gradient_accumulation_steps",
    "training.max_length",
    "evaluation.max_rows",
    "gate.execution_accuracy",
    "deploy.target",
)
"""What people change most: the keys that the README shows."""
_LONGEST = 100
_BOUNDS = (
    ("exclusiveMinimum", "above {}"),
    ("minimum", "from {}"),
    ("exclusiveMaximum", "below {}"),
    ("maximum", "to {}"),
)


@dataclass(frozen=True)
class Key:
    """One setting, as the references tell it."""

    name: str
    allowed: str
    default: str
    meaning: str


def main() -> None:
    """Write the page to stdout."""
    print(page(), end="")  # noqa: T201


def page() -> str:
    """The whole of docs/configuration.md."""
    top = [key for key in keys(Settings) if "." not in key.name]
    parts = [OPENING, _table(top)]
    for name, kind in sections():
        parts.append(f"## {name}\n\n{meaning(kind)}\n\n{_table(keys(kind, f'{name}.'))}")
    return "\n".join(parts)


def excerpt() -> str:
    """The README's table: the keys of CHANGED, in that order."""
    found = {key.name: key for key in keys(Settings)}
    for name, kind in sections():
        found |= {key.name: key for key in keys(kind, f"{name}.")}
    rows = (f"| `{name}` | {found[name].default} | {found[name].meaning} |" for name in CHANGED)
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows, ""])


def sections() -> Iterator[tuple[str, type[Section]]]:
    """The sections of a config by name."""
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, Section):
            yield name, type(field.default)


def meaning(kind: type[Section]) -> str:
    """What a section is about, in a line."""
    return " ".join((kind.__doc__ or "").split())


def keys(section: type[Section], prefix: str = "") -> list[Key]:
    """The keys of a section, those of sections within it too; bounds are one key."""
    return list(_keys(section, prefix, section.model_json_schema()))


def _keys(section: type[Section], prefix: str, schema: dict[str, Any]) -> Iterator[Key]:
    defaults = section().model_dump(mode="json")
    for name, field in section.model_fields.items():
        shown: Any = defaults[name]
        if isinstance(field.default, Threshold | Beats):
            shown = {bound: value for bound, value in shown.items() if value is not None}
        elif isinstance(field.default, Section):
            if section is not Settings:
                yield from keys(type(field.default), f"{prefix}{name}.")
            continue
        text = json.dumps(shown, ensure_ascii=False)
        default = "see the file" if len(text) > _LONGEST else f"`{text}`"
        allowed = _allowed(schema["properties"][name], schema.get("$defs", {}))
        yield Key(f"{prefix}{name}", allowed, default, " ".join((field.description or "").split()))


def _allowed(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What a value may be, from its JSON Schema."""
    if "$ref" in schema:
        inner = definitions[schema["$ref"].rpartition("/")[2]]
        return f"mapping of {', '.join(f'`{name}`' for name in inner['properties'])}"
    if choices := schema.get("anyOf"):
        return ", ".join(dict.fromkeys(_allowed(choice, definitions) for choice in choices))
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`".replace('"', "") for value in schema["enum"])
    kind = {
        "string": schema.get("format", "text"),
        "integer": "whole number",
        "boolean": "`true`, `false`",
        "null": "`null`",
        "array": "list",
        "object": "mapping",
    }.get(schema["type"], schema["type"])
    if "pattern" in schema:
        kind = f"text like `{schema['pattern']}`".replace("|", "\\|")
    bounds = [words.format(schema[bound]) for bound, words in _BOUNDS if bound in schema]
    return " ".join([kind, *bounds])


def _table(found: list[Key]) -> str:
    rows = [f"| `{key.name}` | {key.default} | {key.allowed} | {key.meaning} |" for key in found]
    return "\n".join(["| key | default | allowed | meaning |", "|---|---|---|---|", *rows, ""])


if __name__ == "__main__":
    main()
