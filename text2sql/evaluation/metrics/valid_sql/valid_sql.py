"""Valid SQL as a metric of evaluate."""

from __future__ import annotations

from text2sql.evaluation.metrics import judged


class ValidSql(judged.JudgedMetric):
    """See `meaning`."""

    figures = ("valid_sql",)
    meaning = """
Share of predictions that parse, only read, and run on the schema of their row.
"""
