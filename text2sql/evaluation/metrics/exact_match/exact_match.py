"""Exact match as a metric of evaluate."""

from __future__ import annotations

from text2sql.evaluation.metrics import judged


class ExactMatch(judged.JudgedMetric):
    """See `meaning`."""

    figures = ("exact_match",)
    meaning = """
Share of predictions equal to the gold query once both are normalised, and giving its results.
"""
