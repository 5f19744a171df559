"""What the metrics have in common that ask the judge. Import the module and not the class: evaluate takes the first
class of a metric's file that is a metric."""

from __future__ import annotations

from typing import ClassVar

import datasets
import evaluate

from text2sql.evaluation.metrics import CITATION

INPUTS = """
Args:
    predictions: SQL texts.
    references: gold queries.
    contexts: CREATE TABLE statements of the schema that each row is about.
    databases: SQLite databases filled for each row, 5 by default.
    query_timeout: seconds that a query may run, 2 by default.
"""


class JudgedMetric(evaluate.Metric):  # type: ignore[misc]
    """Shares of rows by the verdicts of the judge."""

    figures: ClassVar[tuple[str, ...]]
    """Keys of text2sql.evaluation.statistics.VERDICTS."""
    meaning: ClassVar[str]

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.meaning,
            citation=CITATION,
            inputs_description=INPUTS,
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
        from text2sql.config import EvaluationSection
        from text2sql.evaluation.score import score_systems
        from text2sql.evaluation.statistics import VERDICTS, mean

        rows = datasets.Dataset.from_dict({"context": list(contexts), "answer": list(references)})
        evaluation = EvaluationSection(databases=databases, query_timeout=query_timeout)
        verdicts = score_systems(rows, {"": list(predictions)}, evaluation)[""]
        return {key: mean([float(getattr(verdict, VERDICTS[key])) for verdict in verdicts]) for key in self.figures}
