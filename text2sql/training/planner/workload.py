"""How much there is to train on: rows, tokens with and without padding, steps, and the largest batch.

Counted with the model's own tokenizer where rows and tokenizer are on this machine; otherwise assumed, and said so.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from text2sql.config import Settings
from text2sql.data.load import load_rows
from text2sql.data.prompt import encode_rows, render_prompt
from text2sql.errors import DataError, TrainingError
from text2sql.training.planner.memory import MicroBatch
from text2sql.training.planner.shape import in_cache

if TYPE_CHECKING:
    from datasets import Dataset

SAMPLE = 10_000
"""Rows that are tokenised at most; more are drawn from."""
CHARACTERS_A_TOKEN = 3.2
"""Assumed of SQL and questions where there is no tokenizer to ask."""
POOL = 50
"""Batches among which rows are sorted by length when they are grouped."""
PACKED_SHARE = 0.97
"""Of a packed sequence filled by best-fit decreasing, as seen with rows much shorter than the sequence."""
KNOWN_ROWS = {"b-mc2/sql-create-context": 78_577}
KNOWN_CHARACTERS = (273, 108)
"""Mean prompt (default template) and answer of 3,441 rows of b-mc2/sql-create-context."""


@dataclass(frozen=True)
class Row:
    """Tokens of a row, and those of them with loss."""

    length: int
    scored: int


@dataclass(frozen=True)
class Workload:
    """One training run."""

    rows: int
    """Training rows an epoch."""
    epochs: float
    tokens: int
    """Of all epochs, without padding."""
    scored: int
    """… with loss."""
    padded: int
    """… with padding: what is computed."""
    steps: int
    passes: int
    """Micro-batches."""
    largest: MicroBatch
    """Of most tokens, padding included."""
    left_out: int
    """Rows an epoch that are longer than training.max_length."""
    source: str
    """Where the counts came from, for people."""


def workload_of(
    settings: Settings, devices: int = 1, rows: int | None = None, tokens: int | None = None, packed_masks: bool = False
) -> Workload:
    """The run that the settings ask for.

    Args:
        devices: how many share the batches.
        rows: in place of the number of rows of the data; `tokens`: in place of a row's length.
        packed_masks: packed rows are kept apart by a mask, for want of FlashAttention.

    Raises:
        DataError: the rows cannot be read, or nobody knows how many there are.
        TrainingError: every row is longer than training.max_length.
    """
    sample, count, source = _rows(settings, rows, tokens)
    fitting = [row for row in sample if row.length <= settings.training.max_length]
    if not fitting:
        raise TrainingError(
            f"no training row would be left: all {count:,} have more than training.max_length = "
            f"{settings.training.max_length} tokens; raise training.max_length"
        )
    share = len(fitting) / len(sample)
    return _run(fitting, round(count * share), count - round(count * share), source, settings, devices, packed_masks)


def _run(
    sample: Sequence[Row], count: int, left_out: int, source: str, settings: Settings, devices: int, packed_masks: bool
) -> Workload:
    training = settings.training
    size = training.per_device_train_batch_size
    tokens = sum(row.length for row in sample) / len(sample)
    scored = sum(row.scored for row in sample) / len(sample)
    if training.packing:
        sequences = math.ceil(count * tokens / (PACKED_SHARE * training.max_length))
        padded_row = tokens / PACKED_SHARE
        largest = MicroBatch(
            size, training.max_length, round(size * training.max_length * scored / tokens), packed_masks
        )
    else:
        sequences = count
        padded_row = padded(sample, size * training.gradient_accumulation_steps, size, training.group_by_length)
        rows_by_length = sorted(sample, key=lambda row: row.length)
        if len(sample) == 1:  # assumed: the longest of them may be as long as is allowed
            rows_by_length = [Row(training.max_length, math.ceil(training.max_length * scored / tokens))]
        rows_by_length += rows_by_length[-1:] * (size - len(rows_by_length))
        lengths = [row.length for row in rows_by_length]
        together = [rows_by_length[i] for i in fullest(lengths, size, training.micro_batch_tokens)]
        largest = MicroBatch(len(together), together[0].length, sum(row.scored for row in together))
    steps_an_epoch = math.ceil(sequences / (size * devices * training.gradient_accumulation_steps))
    in_parts = math.ceil(sequences * padded_row / training.micro_batch_tokens) if training.micro_batch_tokens else 0
    passes_an_epoch = max(math.ceil(sequences / (size * devices)), math.ceil(in_parts / devices))
    steps = training.max_steps or math.ceil(training.num_train_epochs * steps_an_epoch)
    epochs = steps / steps_an_epoch if training.max_steps else float(training.num_train_epochs)
    return Workload(
        rows=count,
        epochs=epochs,
        tokens=round(epochs * count * tokens),
        scored=round(epochs * count * scored),
        padded=round(epochs * count * padded_row),
        steps=steps,
        passes=math.ceil(epochs * passes_an_epoch),
        largest=largest,
        left_out=left_out,
        source=source,
    )


def fullest(lengths: Sequence[int], size: int, limit: int | None) -> list[int]:
    """Which rows make the micro-batch of most tokens, padding included, the longest row first.

    Of at most `size` rows and `limit` tokens; a row that is longer alone is one by itself.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    best: list[int] = []
    most, before = 0, 0
    for place, row in enumerate(order):
        length = lengths[row]
        if length == before:
            continue  # fewer of the same
        before = length
        together = order[place : place + max(1, min(size, (limit or size * length) // length))]
        if len(together) * length > most:
            best, most = together, len(together) * length
    return best


def padded(sample: Sequence[Row], batch: int, size: int, grouped: bool) -> float:
    """Tokens a row takes when `size` rows are padded to the longest of them, in the order that the trainer takes."""
    lengths = [row.length for row in sample]
    random.Random(0).shuffle(lengths)
    total = sum(
        max(part) * len(part)
        for start in range(0, len(lengths), POOL * batch)
        for part in _batches(lengths[start : start + POOL * batch], size, grouped)
    )
    return total / len(lengths)


def _batches(lengths: list[int], size: int, grouped: bool) -> Iterator[list[int]]:
    ordered = sorted(lengths) if grouped else lengths
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _rows(settings: Settings, count: int | None, tokens: int | None) -> tuple[list[Row], int, str]:
    """A sample of training rows, how many there are an epoch, and where that is known from."""
    data = settings.data
    at_hand = data.path is not None or data.is_generated or _cached(settings)
    if tokens is not None or not at_hand:
        return _assumed(settings, count, tokens)
    found = load_rows(data)
    if "split" in found.column_names:
        found = found.filter(lambda split: split == "train", input_columns="split", keep_in_memory=True)
        training_rows = found.num_rows
    else:
        training_rows = round(found.num_rows * data.train_ratio)
    if not found.num_rows:
        raise DataError("the train split is empty; check the data section")
    sample, how = _lengths(found, settings)
    return sample, count or training_rows, f"{how}; rows that validation sets aside are not taken off"


def _cached(settings: Settings) -> bool:
    data = settings.data
    return in_cache(data.dataset_name, "README.md", data.dataset_revision, kind="dataset")


def _assumed(settings: Settings, count: int | None, tokens: int | None) -> tuple[list[Row], int, str]:
    data = settings.data
    known = KNOWN_ROWS.get(data.dataset_name)
    if count is None and known is None:
        raise DataError(f"nobody knows how many rows {data.dataset_name!r} has before it is here; give --rows")
    given = "given" if count else f"{known:,} rows as published, data.subset_fraction and train_ratio of them"
    rows = count or max(1, round((known or 0) * data.subset_fraction * data.train_ratio))
    prompt, answer = (round(part / CHARACTERS_A_TOKEN) for part in KNOWN_CHARACTERS)
    if tokens is not None:
        row, how = Row(tokens, max(1, round(tokens * answer / (prompt + answer)))), f"--tokens-per-row {tokens}"
    else:
        row = Row(min(prompt + answer + 2, settings.training.max_length), answer + 1)
        how = f"{row.length} tokens a row ({sum(KNOWN_CHARACTERS)} characters at {CHARACTERS_A_TOKEN} a token)"
    return [row], rows, f"ASSUMED: {how}, the longest training.max_length; rows: {given}"


def _lengths(rows: Dataset, settings: Settings) -> tuple[list[Row], str]:
    """Tokens of at most SAMPLE rows, by the model's tokenizer if it is on this machine, else by their characters."""
    if rows.num_rows > SAMPLE:
        rows = rows.shuffle(seed=settings.data.seed, keep_in_memory=True).select(range(SAMPLE))
    model, tokenizer = settings.model, None
    if _is_here(settings):
        from text2sql.training.model import load_tokenizer

        tokenizer = load_tokenizer(model)
    columns = (rows[name][:] for name in ("context", "question", "answer"))
    texts = [row for row in zip(*columns, strict=True) if None not in row]
    if not texts:
        raise DataError("no row has question, context and answer as text; check the data section")
    chat = tokenizer if model.chat_template else None
    prompts = [render_prompt(settings.data.prompt_template, context, question, chat) for context, question, _ in texts]
    answers = [answer.strip() for _, _, answer in texts]
    if tokenizer is not None:
        encoded = encode_rows(tokenizer, prompts, answers)
        sample = [Row(len(row["input_ids"]), sum(row["completion_mask"])) for row in encoded]
        return sample, f"counted: {len(sample):,} rows with the tokenizer of {model.name}"
    sample = [
        Row(
            math.ceil((len(prompt) + len(answer)) / CHARACTERS_A_TOKEN) + 2,
            math.ceil(len(answer) / CHARACTERS_A_TOKEN) + 1,
        )
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    how = f"ASSUMED: {CHARACTERS_A_TOKEN} characters a token (the tokenizer is not here) over {len(sample):,} rows"
    return sample, how


def _is_here(settings: Settings) -> bool:
    model = settings.model
    return Path(model.name).is_dir() or in_cache(model.name, "tokenizer_config.json", model.revision)
