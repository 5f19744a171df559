"""Likeness of texts: ROUGE-L and BLEU, as the reference implementations compute them."""

from __future__ import annotations

from collections.abc import Sequence


def rouge_l(predictions: Sequence[str], golds: Sequence[str]) -> float:
    """Mean ROUGE-L F1 (Lin 2004) by rouge-score without stemming, 0 to 1; 0 for no rows."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    scores = [scorer.score(gold, text)["rougeL"].fmeasure for gold, text in zip(golds, predictions, strict=True)]
    return sum(scores) / len(scores) if scores else 0.0


def bleu(predictions: Sequence[str], golds: Sequence[str]) -> float:
    """Corpus BLEU (Papineni et al. 2002) by sacrebleu with its default tokenizer, 0 to 100; 0 for no rows."""
    import sacrebleu

    if not predictions:
        return 0.0
    return float(sacrebleu.corpus_bleu(list(predictions), [list(golds)]).score)
