from __future__ import annotations

import pytest

from text2sql.evaluation.likeness import bleu, bleu_of, bleu_rows, rouge_l, rouge_l_rows


def test_rouge_l_follows_its_definition():
    # The longest common subsequence of 4 words: precision 4/5, recall 4/4.
    assert rouge_l(["select a from the t"], ["select a from t"]) == pytest.approx(2 * 0.8 / 1.8)
    assert rouge_l_rows(["select a from the t", ""], ["select a from t", "select a"]) == [pytest.approx(1.6 / 1.8), 0]
    assert rouge_l([], []) == 0


def test_bleu_is_a_corpus_figure():
    assert bleu(["SELECT a FROM t"], ["SELECT a FROM t"]) == pytest.approx(100)
    assert bleu(["", ""], ["SELECT a FROM t", "SELECT b FROM t"]) == 0
    assert bleu([], []) == 0


def test_bleu_is_made_of_sums_over_rows():
    texts, golds = (
        ["SELECT a FROM t", "SELECT b FROM u WHERE c = 1"],
        ["SELECT a FROM t", "SELECT b FROM u WHERE d = 1"],
    )
    rows = bleu_rows(texts, golds)
    assert bleu_of([sum(column) for column in zip(*rows, strict=True)]) == pytest.approx(bleu(texts, golds))
