"""Schema adherence as a metric of evaluate."""

from __future__ import annotations

import datasets
import evaluate

from text2sql.evaluation.metrics import CITATION
from text2sql.evaluation.statistics import mean
from text2sql.sql.names import adheres_to

DESCRIPTION = """
Share of predictions that name no table and no column which the schema of their row does not have.
"""
INPUTS = """
Args:
    predictions: SQL texts.
    contexts: CREATE TABLE statements of the schema that each row is about.
"""


class SchemaAdherence(evaluate.Metric):  # type: ignore[misc]
    """See DESCRIPTION."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": text, "contexts": text}),
        )

    def _compute(self, predictions: list[str], contexts: list[str]) -> dict[str, float]:
        verdicts = [float(adheres_to(text, context)) for text, context in zip(predictions, contexts, strict=True)]
        return {"schema_adherence": mean(verdicts)}
