"""Answers to questions, and the perplexity of gold answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from text2sql.data.batches import progress
from text2sql.data.prompt import encode_rows
from text2sql.training.decoding import completion_logits, generate_tokens

if TYPE_CHECKING:
    from datasets import Dataset


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
    label: str = "answering",
) -> list[str]:
    """The greedy answer to each prompt, in the order of the prompts, without the end token or outer whitespace."""
    answers = generate_tokens(model, tokenizer, prompts, max_new_tokens, batch_size, label)
    return [str(tokenizer.decode(answer, skip_special_tokens=True)).strip() for answer in answers]


def completion_perplexity(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, batch_size: int
) -> float:
    """exp(mean negative log-likelihood) over all tokens of `completion`, end tokens included, given `prompt`."""
    encoded = encode_rows(tokenizer, rows["prompt"][:], rows["completion"][:])
    loss, tokens = 0.0, 0
    with progress("perplexity", len(encoded)) as advance:
        for batch, logits, targets in completion_logits(model, encoded, int(tokenizer.pad_token_id), batch_size):
            loss += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
            tokens += len(targets)
            advance(len(batch))
    return math.exp(min(loss / max(tokens, 1), 700.0))  # e^700 is about the largest float
