"""Perplexity over completion tokens as a metric of evaluate."""

from __future__ import annotations

import datasets
import evaluate

from text2sql.evaluation.statistics import perplexity
from text2sql.evaluation.types import TokenLoss

DESCRIPTION = """
exp(loss a token) over the tokens of all completions together, prompts left out: 1 is certainty.
"""
CITATION = """
@article{jelinek1977perplexity,
    title = {Perplexity: a measure of the difficulty of speech recognition tasks},
    author = {Jelinek, Fred and Mercer, Robert L. and Bahl, Lalit R. and Baker, James K.},
    journal = {Journal of the Acoustical Society of America},
    year = {1977}
}
"""
INPUTS = """
Args:
    losses: a row's sum of negative log-likelihoods of its completion's tokens, in nats.
    tokens: how many tokens these are.
"""


class Perplexity(evaluate.Metric):  # type: ignore[misc]
    """See DESCRIPTION."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"losses": datasets.Value("float64"), "tokens": datasets.Value("int64")}),
        )

    def _compute(self, losses: list[float], tokens: list[int]) -> dict[str, float]:
        return {"perplexity": perplexity([TokenLoss(*row) for row in zip(losses, tokens, strict=True)])}
