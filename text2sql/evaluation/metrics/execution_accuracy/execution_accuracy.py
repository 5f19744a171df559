"""Execution accuracy as a metric of evaluate."""

from __future__ import annotations

from text2sql.evaluation.metrics import judged


class ExecutionAccuracy(judged.JudgedMetric):
    """See `meaning`."""

    figures = ("execution_accuracy", "vacuous")
    meaning = """
Share of predictions that give the gold query's result on every database filled for their row, and the share of rows
whose databases cannot tell right from wrong.
"""
