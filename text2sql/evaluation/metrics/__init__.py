"""The figures as metrics of Hugging Face's evaluate: a second door to the library's own functions.

    from text2sql.evaluation.metrics import load_metric

    load_metric("exact_match").compute(predictions=[…], references=[…], contexts=[…])

is `evaluate.load` of the metric's folder, which needs no network. evaluate copies a metric's file to its cache and
imports it from there, so these files import nothing relative.
"""

from __future__ import annotations

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
