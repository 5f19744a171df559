"""Systems side by side on the same frozen rows."""

from __future__ import annotations

import gc
import logging
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from text2sql.config import Settings
from text2sql.errors import DataError
from text2sql.evaluation.score import score_systems
from text2sql.evaluation.types import Evaluation, SystemScores, TestRow
from text2sql.sql.parse import first_statement

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

Loader = Callable[[], tuple[Any, Any]]
"""Loads one system: (model, tokenizer). Called once, and its model is freed before the next is loaded."""


def evaluate_systems(rows: Dataset, systems: Mapping[str, Loader], settings: Settings) -> Evaluation:
    """Answer every row with every system, and judge the answers.

    Args:
        rows: columns prompt, completion, question, context, answer, construct; at most evaluation.max_rows are used.

    Raises:
        DataError: there are no rows.
    """
    rows = frozen_rows(rows, settings.evaluation.max_rows, settings.data.seed)
    if not len(rows):
        raise DataError("there are no test rows to judge on; raise data.test_ratio or data.subset_fraction")
    answers: dict[str, list[str]] = {}
    perplexities: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for name, load in systems.items():
        started = time.perf_counter()
        logger.info("%s: answering %d questions", name, len(rows))
        answers[name], perplexities[name] = _answer(load, rows, settings)
        seconds[name] = time.perf_counter() - started
        logger.info("%s: answered in %.1f s, perplexity %.3f", name, seconds[name], perplexities[name])
    started = time.perf_counter()
    scores = score_systems(rows, answers, settings.evaluation)
    judging = time.perf_counter() - started
    logger.info("judged %d answers in %.1f s", len(rows) * len(answers), judging)
    return Evaluation(
        systems=[
            SystemScores(
                name=name,
                figures={"perplexity": perplexities[name], **scores[name].figures},
                predictions=answers[name],
                rows=scores[name].rows,
                seconds=seconds[name] + judging / len(answers),
            )
            for name in answers
        ],
        rows=[
            TestRow(row["question"], row["context"], row["answer"], construct=row["construct"])
            for row in rows.select_columns(["question", "context", "answer", "construct"])
        ],
        model=settings.model.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def plain_figures(rows: Dataset, load: Loader, settings: Settings) -> dict[str, float] | None:
    """One system's figures on the rows as they were before data.realistic; None where that added nothing."""
    if "plain_context" not in rows.column_names:
        return None
    plain = rows.remove_columns(["context", "prompt"])
    plain = plain.rename_columns({"plain_context": "context", "plain_prompt": "prompt"})
    return evaluate_systems(plain, {"tuned": load}, settings).system("tuned").figures


def frozen_rows(rows: Dataset, max_rows: int | None, seed: int) -> Dataset:
    """At most `max_rows` rows, the same for the same seed, in their order."""
    if max_rows is None or len(rows) <= max_rows:
        return rows
    return rows.select(sorted(random.Random(seed).sample(range(len(rows)), max_rows)))


def _answer(load: Loader, rows: Dataset, settings: Settings) -> tuple[list[str], float]:
    """Answers and perplexity of one system; its model is gone from memory afterwards."""
    from text2sql.evaluation.generate import completion_perplexity, generate

    evaluation = settings.evaluation
    model, tokenizer = load()
    try:
        prompts = list(rows["prompt"])
        texts = generate(model, tokenizer, prompts, evaluation.max_new_tokens, evaluation.batch_size)
        answers = [first_statement(text) for text in texts]  # one cut for every system, tuned or not
        return answers, float(completion_perplexity(model, tokenizer, rows, evaluation.batch_size))
    finally:
        del model, tokenizer
        _free_memory()


def _free_memory() -> None:
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
