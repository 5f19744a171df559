"""Exact match without values as a metric of evaluate."""

from __future__ import annotations

from text2sql.evaluation.metrics import judged


class ExactMatchWithoutValues(judged.JudgedMetric):
    """See `meaning`."""

    figures = ("exact_match_without_values",)
    meaning = """
Share of predictions equal to the gold query once both are normalised and every literal is masked.
"""
