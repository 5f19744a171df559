"""The figures as metrics of Hugging Face's evaluate: a second door to the library's own functions.

    from text2sql.evaluation.metrics import load_metric

    load_metric("exact_match").compute(predictions=[…], references=[…], contexts=[…])

is `evaluate.load` of the metric's folder, which needs no network. evaluate copies a metric's file to its cache and
imports it from there, so these files import nothing relative.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

METRICS = (
    "execution_accuracy",
    "exact_match",
    "exact_match_without_values",
    "valid_sql",
    "schema_adherence",
    "rouge_l",
    "bleu",
    "perplexity",
)
"""Each in a folder of its own; what they compute has the same key."""

JUDGED_INPUTS = """
Args:
    predictions: SQL texts.
    references: gold queries.
    contexts: CREATE TABLE statements of the schema that each row is about.
    databases: SQLite databases filled for each row, 5 by default.
    query_timeout: seconds that a query may run, 2 by default.
"""
CITATION = """
@inproceedings{zhong2020semantic,
    title = {Semantic Evaluation for Text-to-{SQL} with Distilled Test Suites},
    author = {Zhong, Ruiqi and Yu, Tao and Klein, Dan},
    booktitle = {Proceedings of EMNLP},
    year = {2020}
}
"""


def load_metric(name: str) -> Any:
    """The evaluate.Metric of one of METRICS."""
    import evaluate

    return evaluate.load(str(Path(__file__).parent / name))


def judged(
    figures: Sequence[str],
    predictions: Sequence[str],
    references: Sequence[str],
    contexts: Sequence[str],
    databases: int,
    query_timeout: float,
) -> dict[str, float]:
    """Shares of rows, of text2sql.evaluation.statistics.VERDICTS, by the verdicts of the judge."""
    from datasets import Dataset

    from text2sql.config import EvaluationSection
    from text2sql.evaluation.score import score_systems
    from text2sql.evaluation.statistics import VERDICTS, mean

    rows = Dataset.from_dict({"context": list(contexts), "answer": list(references)})
    evaluation = EvaluationSection(databases=databases, query_timeout=query_timeout)
    verdicts = score_systems(rows, {"": list(predictions)}, evaluation)[""]
    return {figure: mean([float(getattr(verdict, VERDICTS[figure])) for verdict in verdicts]) for figure in figures}
