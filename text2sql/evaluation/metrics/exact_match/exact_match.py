"""Exact match as a metric of evaluate."""

from __future__ import annotations

import datasets
import evaluate

from text2sql.evaluation.metrics import CITATION, JUDGED_INPUTS, judged

DESCRIPTION = """
Share of predictions equal to the gold query once both are normalised, and giving its results.
"""


class ExactMatch(evaluate.Metric):  # type: ignore[misc]
    """See DESCRIPTION."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=JUDGED_INPUTS,
            features=datasets.Features({"predictions": text, "references": text, "contexts": text}),
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        contexts: list[str],
        databases: int = 5,
        query_timeout: float = 2.0,
    ) -> dict[str, float]:
        return judged(("exact_match",), predictions, references, contexts, databases, query_timeout)
