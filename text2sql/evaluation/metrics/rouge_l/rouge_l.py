"""ROUGE-L as a metric of evaluate."""

from __future__ import annotations

import datasets
import evaluate

from text2sql.evaluation.likeness import rouge_l

DESCRIPTION = """
Mean ROUGE-L F1 of predictions and gold queries as texts, 0 to 1: the longest common subsequence of words.
"""
CITATION = """
@inproceedings{lin2004rouge,
    title = {{ROUGE}: A Package for Automatic Evaluation of Summaries},
    author = {Lin, Chin-Yew},
    booktitle = {Text Summarization Branches Out},
    year = {2004}
}
"""
INPUTS = """
Args:
    predictions: SQL texts.
    references: gold queries.
"""


class RougeL(evaluate.Metric):  # type: ignore[misc]
    """See DESCRIPTION."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"rouge_l": rouge_l(predictions, references)}
