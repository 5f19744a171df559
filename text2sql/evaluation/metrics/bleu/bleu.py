"""BLEU as a metric of evaluate."""

from __future__ import annotations

import datasets
import evaluate

from text2sql.evaluation.likeness import bleu

DESCRIPTION = """
Corpus BLEU of predictions and gold queries as texts, 0 to 100, by sacrebleu with its default tokenizer.
"""
CITATION = """
@inproceedings{papineni2002bleu,
    title = {{BLEU}: a Method for Automatic Evaluation of Machine Translation},
    author = {Papineni, Kishore and Roukos, Salim and Ward, Todd and Zhu, Wei-Jing},
    booktitle = {Proceedings of ACL},
    year = {2002}
}
"""
INPUTS = """
Args:
    predictions: SQL texts.
    references: gold queries.
"""


class Bleu(evaluate.Metric):  # type: ignore[misc]
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
        return {"bleu": bleu(predictions, references)}
