"""Pages for the ZenML dashboard: self-contained, and with every cell escaped, since rows are other people's text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
body { font: 14px/1.45 system-ui, sans-serif; margin: 1.5rem; color: #1f2430; background: #fff; }
h1 { font-size: 1.25rem; } h2 { font-size: 1rem; margin-top: 1.5rem; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; } th, td { padding: .3rem .7rem; border-bottom: 1px solid #d9dce3; text-align: left;
  vertical-align: top; white-space: pre-wrap; } th { background: #f3f4f7; } td.number { text-align: right; }
</style></head><body>
<h1>{{ title }}</h1>
{% for name, picture in pictures %}<h2>{{ name }}</h2>{{ picture }}{% endfor %}
{% for name, columns, rows in tables %}{% if name %}<h2>{{ name }}</h2>{% endif %}
<div class="scroll"><table><thead><tr>{% for column in columns %}<th>{{ column }}</th>{% endfor %}</tr></thead><tbody>
{% for row in rows %}<tr>{% for cell in row %}
<td{% if cell is number and cell is not boolean %} class="number"{% endif %}>
{{- cell | show -}}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endfor %}
</body></html>
"""

Table = tuple[str, Sequence[str], Iterable[Sequence[Any]]]
"""Heading ("" for none), column names, rows."""


def page(title: str, tables: Sequence[Table], svg: Mapping[str, str] | None = None) -> str:
    """One HTML page; only `svg`, which this project draws itself, goes in as it is."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["show"] = _show
    pictures = [(name, Markup(text)) for name, text in (svg or {}).items() if text]  # noqa: S704 - drawn here, from numbers
    return environment.from_string(PAGE).render(title=title, tables=tables, pictures=pictures)


def mapping_table(heading: str, values: Mapping[str, Any]) -> Table:
    """Two columns, name and value."""
    return heading, ("", "value"), [(name.replace("_", " "), value) for name, value in values.items()]


def records_table(heading: str, records: Sequence[Mapping[str, Any]]) -> Table:
    """A column a key, in order of first appearance."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    return heading, columns, [[record.get(column) for column in columns] for record in records]


def _show(cell: Any) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return f"{cell:.6g}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
