"""The OpenAPI document as one page that needs nothing from elsewhere, and no script."""

from __future__ import annotations

import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_docs(document: dict[str, Any]) -> str:
    """HTML."""
    environment = Environment(
        loader=PackageLoader("text2sql.serving", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    schemas = document["components"]["schemas"]
    routes = [
        _route(path, method, route) for path, found in document["paths"].items() for method, route in found.items()
    ]
    models = [
        {"name": name, "about": schema.get("description", ""), "fields": _fields(schema)}
        for name, schema in schemas.items()
        if schema.get("properties")
    ]
    return environment.get_template("docs.html.j2").render(info=document["info"], routes=routes, models=models)


def _route(path: str, method: str, route: dict[str, Any]) -> dict[str, Any]:
    body = route.get("requestBody", {}).get("content", {})
    answers = []
    for status, response in route.get("responses", {}).items():
        kinds = [f"{kind}: {_kind(said['schema'])}" if said.get("schema") else kind
                 for kind, said in response.get("content", {}).items()]  # fmt: skip
        answers.append({"status": status, "about": response.get("description", ""), "kinds": kinds})
    return {
        "path": path,
        "method": method.upper(),
        "about": route.get("description", ""),
        "key": bool(route.get("security")),
        "parameters": [
            {"name": p["name"], "where": p["in"], "kind": _kind(p["schema"]), "about": p.get("description", "")}
            for p in route.get("parameters", [])
        ],
        "bodies": [{"type": kind, "kind": _kind(said.get("schema", {}))} for kind, said in body.items()],
        "answers": answers,
    }


def _fields(schema: dict[str, Any]) -> list[dict[str, Any]]:
    required = schema.get("required", [])
    return [
        {
            "name": name,
            "kind": _kind(field),
            "required": name in required,
            "default": json.dumps(field["default"]) if field.get("default") is not None else "",
            "about": field.get("description", ""),
        }
        for name, field in schema["properties"].items()
    ]


def _kind(schema: dict[str, Any]) -> str:
    """A type in few words; models by name."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if several := schema.get("anyOf") or schema.get("oneOf"):
        return " | ".join(_kind(one) for one in several)
    if schema.get("type") == "array":
        return f"[{_kind(schema.get('items', {}))}]"
    if "const" in schema:
        return json.dumps(schema["const"])
    words = str(schema.get("type") or "any")
    bounds = [
        f"{sign} {schema[key]}"
        for key, sign in (("minimum", "≥"), ("maximum", "≤"), ("minLength", "≥"), ("maxLength", "≤"))
        if key in schema
    ]
    return f"{words} {', '.join(bounds)}".strip()
