"""Pages for the ZenML dashboard: self-contained, and with every cell escaped, since rows are other people's text.

It shows them in a frame of about 750 by 384 pixels that runs no scripts, always light.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
body { font: 13px/1.4 system-ui, sans-serif; margin: .75rem 1rem; color: #1f2430; background: #fff; }
h1 { font-size: 1.2rem; margin: 0 0 .6rem; } h2 { font-size: 1rem; margin: 1.1rem 0 .4rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #d9dce3; text-align: left; vertical-align: top; }
th { background: #f3f4f7; white-space: nowrap; } td { white-space: pre-wrap; } td.long { min-width: 15rem; }
td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
</style></head><body>
<h1>{{ title }}</h1>
{% for name, picture in pictures %}<h2>{{ name }}</h2>{{ picture }}{% endfor %}
{% for name, columns, rows in tables %}{% if name %}<h2>{{ name }}</h2>{% endif %}
<div class="scroll"><table>{% if columns | select | list %}<thead><tr>
{%- for column in columns %}<th>{{ column | replace("_", " ") }}</th>{% endfor %}</tr></thead>{% endif %}<tbody>
{% for row in rows %}<tr>{% for cell in row %}
<td{% if cell is number and cell is not boolean %} class="number"
{%- elif cell is string and cell | length > 40 %} class="long"{% endif %}>
{{- cell | show -}}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endfor %}
</body></html>
"""

Table = tuple[str, Sequence[str], Iterable[Sequence[Any]]]
"""Heading ("" for none), column names ("" for none), rows."""


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
    return heading, ("", ""), [(name.replace("_", " "), value) for name, value in values.items()]


def records_table(heading: str, records: Sequence[Mapping[str, Any]], shares: Sequence[str] = ()) -> Table:
    """A column a key, in order of first appearance; those of `shares` in percent."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    rows = [[_share(record.get(c)) if c in shares else record.get(c) for c in columns] for record in records]
    return heading, columns, rows


def _share(cell: Any) -> Any:
    return f"{cell:.1%}" if isinstance(cell, float) else cell


def _show(cell: Any) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 10_000 else f"{cell:.4g}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
