"""Likeness of texts: ROUGE-L and BLEU, as the reference implementations compute them, whole and row by row."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU

MAX_CHARS = 20_000
"""ROUGE takes the product of two texts' lengths in time: what is longer, a runaway answer, is cut."""
BLEU_SUMS = 10
"""How many numbers BLEU adds up over rows."""


def rouge_l(predictions: Sequence[str], golds: Sequence[str]) -> float:
    """Mean ROUGE-L F1, 0 to 1; 0 for no rows."""
    scores = rouge_l_rows(predictions, golds)
    return sum(scores) / len(scores) if scores else 0.0


def rouge_l_rows(predictions: Sequence[str], golds: Sequence[str]) -> list[float]:
    """ROUGE-L F1 (Lin 2004) of each row, by rouge-score without stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    return [
        float(scorer.score(gold[:MAX_CHARS], text[:MAX_CHARS])["rougeL"].fmeasure)
        for gold, text in zip(golds, predictions, strict=True)
    ]


def bleu(predictions: Sequence[str], golds: Sequence[str]) -> float:
    """Corpus BLEU (Papineni et al. 2002) by sacrebleu with its default tokenizer, 0 to 100; 0 for no rows."""
    sums = [sum(column) for column in zip(*bleu_rows(predictions, golds), strict=True)]
    return bleu_of(sums) if sums else 0.0


def bleu_rows(predictions: Sequence[str], golds: Sequence[str]) -> list[list[int]]:
    """What BLEU adds up over rows: length, gold's length, matching n-grams and all n-grams, n from 1 to 4."""
    scorer = _scorer()
    rows = []
    for gold, text in zip(golds, predictions, strict=True):
        score = scorer.sentence_score(text[:MAX_CHARS], [gold[:MAX_CHARS]])
        rows.append([score.sys_len, score.ref_len, *score.counts, *score.totals])
    return rows


def bleu_of(sums: Sequence[float]) -> float:
    """BLEU of statistics as `bleu_rows` gives them, added up; sacrebleu's own formula and smoothing."""
    scorer = _scorer()
    length, gold_length, *counts = (round(value) for value in sums)
    return float(scorer.compute_bleu(counts[:4], counts[4:], length, gold_length, scorer.smooth_method).score)


@functools.cache
def _scorer() -> BLEU:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True)  # for single rows, whose counts are all that is taken from them
