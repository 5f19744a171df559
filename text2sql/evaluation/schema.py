"""The JSON schema of evaluation.json, with what the code says of every field.

python -m text2sql.evaluation.schema > docs/evaluation.schema.json
"""

from __future__ import annotations

import inspect
import json
import sys
from typing import Any

from text2sql.evaluation import types
from text2sql.evaluation.faults import FAULTS
from text2sql.evaluation.figures import FIGURES


def evaluation_schema() -> dict[str, Any]:
    """The schema of `Evaluation.to_json`, as JSON Schema 2020-12."""
    from pydantic import ConfigDict, TypeAdapter

    # Plain dataclasses take a configuration only from what holds them; a tuple does.
    adapter = TypeAdapter(tuple[types.Evaluation], config=ConfigDict(use_attribute_docstrings=True))
    found = adapter.json_schema(mode="serialization")["$defs"]
    for name, part in found.items():
        part["description"] = inspect.getdoc(getattr(types, name))
    _name_figures(found["SystemScores"]["properties"]["figures"])
    _name_faults(found["RowScore"]["properties"]["fault"])
    schema = {**found.pop("Evaluation"), "$defs": found}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_without_titles(schema)}


def schema_text() -> str:
    """The schema as the file in docs/ holds it."""
    return json.dumps(evaluation_schema(), indent=2, ensure_ascii=False) + "\n"


def _name_figures(figures: dict[str, Any]) -> None:
    figures["properties"] = {
        figure.key: {"type": "number", "description": f"{figure.label}: {figure.meaning}"} for figure in FIGURES
    }


def _name_faults(fault: dict[str, Any]) -> None:
    fault["description"] = "What is wrong with it; null for a right answer."
    fault["anyOf"] = [*({"const": slug, "description": meaning} for slug, meaning in FAULTS.items()), {"type": "null"}]


def _without_titles(part: Any) -> Any:
    """Without pydantic's titles, which repeat the names; a field that is called title would be a mapping."""
    if isinstance(part, dict):
        return {
            key: _without_titles(value) for key, value in part.items() if key != "title" or not isinstance(value, str)
        }
    return [_without_titles(value) for value in part] if isinstance(part, list) else part


if __name__ == "__main__":
    sys.stdout.write(schema_text())
