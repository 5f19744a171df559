"""What can be wrong with an answer."""

from __future__ import annotations

FAULTS = {
    "syntax": "not one SQL query that parses",
    "invented_table": "names a table that the schema does not have",
    "invented_column": "names a column that the schema does not have",
    "wrong_aggregate": "counts, sums or averages something else, or not at all",
    "wrong_filter": "another condition in WHERE or HAVING",
    "wrong_literal": "the right condition with another value",
    "wrong_join": "other tables, or the right ones joined on other columns",
    "wrong_order": "another ORDER BY or LIMIT",
    "wrong_columns": "other columns are selected",
    "other": "none of the above",
}
"""Slug → meaning, in the order in which they are looked for."""
