"""Any model, server or file of predictions, judged on any test rows, without a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from text2sql.config import Settings
from text2sql.data.check import check_rows
from text2sql.data.load import is_prepared, load_rows
from text2sql.data.prompt import format_split, format_splits
from text2sql.data.split import split_rows
from text2sql.errors import DataError
from text2sql.evaluation.answering import Contender, local_model, recorded_answers
from text2sql.evaluation.evaluate import evaluate_systems
from text2sql.evaluation.gate import Verdict, decide
from text2sql.evaluation.types import Evaluation

if TYPE_CHECKING:
    from datasets import Dataset

Mode = Literal["local", "vllm"]


@dataclass(frozen=True)
class Candidates:
    """What is judged: exactly one of the three, and models to hold it against."""

    model: str | None = None
    """A folder, or a name on the hub; with `url`, the name that the server knows it by."""
    url: str | None = None
    """An OpenAI-compatible server."""
    predictions: Path | None = None
    against: tuple[str, ...] = ()
    """More model folders or names."""


def benchmark(settings: Settings, candidates: Candidates, test_data: Path | None) -> tuple[Evaluation, Verdict]:
    """Judge the candidate, and hold it against the config's gate.

    Args:
        test_data: a prepared folder, whose test split counts; a file, of which every sound row counts; None for the
            test split of the configured data.

    Raises:
        Text2SQLError: as loading, judging and the models do.
    """
    rows, training = rows_to_judge(settings, test_data)
    contenders = {"model": _candidate(settings, candidates)}
    for name in candidates.against:
        contenders[Path(name).name] = local_model(name, settings.evaluation)
    evaluation = evaluate_systems(rows, contenders, settings, training)
    return evaluation, decide(evaluation, settings.gate)


def rows_to_judge(settings: Settings, test_data: Path | None) -> tuple[Dataset, Dataset | None]:
    """The rows to judge on, with prompts, and training rows where there are any.

    Raises:
        DataError: they cannot be read, or none is sound.
    """
    data = settings.data
    if test_data is not None:
        data = data.model_copy(update={"path": test_data, "sha256": None, "subset_fraction": 1.0, "benchmark": None})
    from text2sql.training.model import load_tokenizer

    valid = check_rows(load_rows(data), data).valid
    chat = load_tokenizer(settings.model) if settings.model.chat_template else None
    if test_data is not None and not is_prepared(test_data):
        return format_split(valid, data.prompt_template, chat), None
    splits = format_splits(split_rows(valid, data), data, chat)
    if not splits["test"].num_rows:
        raise DataError(f"{test_data or 'the configured data'}: its test split is empty; raise data.test_ratio")
    return splits["test"], splits["train"]


def _candidate(settings: Settings, candidates: Candidates) -> Contender:
    limits = settings.evaluation
    if candidates.predictions is not None:
        return recorded_answers(candidates.predictions)
    if candidates.url is not None:
        from text2sql.evaluation.served import served_model

        return served_model(candidates.url, candidates.model, limits)
    assert candidates.model is not None  # noqa: S101 - the command line asks for one of the three
    return local_model(candidates.model, limits, trust_remote_code=settings.model.trust_remote_code)
