"""Any model, server or file of predictions, judged on any test rows, without a pipeline."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from text2sql.config import EvaluationSection, ModelSection, Settings
from text2sql.data.check import check_rows
from text2sql.data.load import is_prepared, load_rows
from text2sql.data.prompt import format_split, format_splits
from text2sql.data.split import split_rows
from text2sql.errors import DataError
from text2sql.evaluation.answering import Answerer, Contender, local_model, recorded_answers
from text2sql.evaluation.evaluate import evaluate_systems
from text2sql.evaluation.gate import Verdict, decide
from text2sql.evaluation.types import RIVALS, Evaluation
from text2sql.training.recipe import read_recipe

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidates:
    """What is judged: exactly one of the three, and models to hold it against."""

    model: str | None = None
    """A folder, or a name on the hub. With `url`, the folder that the server has it from, or its name there."""
    url: str | None = None
    """An OpenAI-compatible server."""
    predictions: Path | None = None
    against: tuple[str, ...] = ()
    """More model folders or names."""
    base: str | None = None
    """One more, judged as `base` and, with examples of the training rows, as `base_few_shot`."""


def benchmark(settings: Settings, candidates: Candidates, test_data: Path | None) -> tuple[Evaluation, Verdict]:
    """Judge the candidate, and hold it against the config's gate; of a base that is not there nothing is asked.

    Args:
        test_data: a prepared folder, whose test split counts; a file, of which every sound row counts, and which has no
            training rows to draw a base's examples from; None for the test split of the configured data.

    Raises:
        Text2SQLError: as loading, judging and the models do.
    """
    configured, settings = settings.model, _about(settings, candidates, test_data)
    rows, training = rows_to_judge(settings, test_data)
    contenders = {"model": _candidate(settings, candidates, configured)}
    for model in candidates.against:
        contenders[_unused(Path(model).name, contenders)] = _local(model, settings, configured)
    gate = settings.gate
    if candidates.base is None:
        gate = gate.model_copy(update={"beats_base": None})
    else:
        contenders["base"] = _local(candidates.base, settings, configured, few_shot=True)
        if training is None and settings.evaluation.few_shot:
            logger.warning("no training rows to draw examples from: the base is asked with the plain prompt alone")
    evaluation = evaluate_systems(rows, contenders, settings, training)
    return evaluation, decide(evaluation, gate)


def _about(settings: Settings, candidates: Candidates, test_data: Path | None) -> Settings:
    """The settings with what is judged, and on what, in place of what they would train and train on."""
    judged = candidates.model or str(candidates.predictions or candidates.url)
    data: dict[str, object] = {}
    if test_data is not None:
        if not test_data.exists():
            raise DataError(f"--test-data {test_data}: no such file or folder; correct it")
        data = {"path": test_data, "sha256": None, "subset_fraction": 1.0, "benchmark": None}
    return settings.model_copy(
        update={
            "model": settings.model.model_copy(update={"name": judged, "sha256": None}),
            "data": settings.data.model_copy(update=data),
        }
    )


def _unused(name: str, taken: Mapping[str, object]) -> str:
    """The name, numbered where another system, or a role of the train pipeline, has it."""
    reserved = {*taken, *RIVALS, "tuned", "model"}
    numbered = (f"{name} {number}" for number in count(2))
    return next(new for new in chain((name,), numbered) if new not in reserved)


def rows_to_judge(settings: Settings, test_data: Path | None) -> tuple[Dataset, Dataset | None]:
    """The rows to judge on, with prompts, and those for training, where they are told apart.

    Those that are set aside are counted in a line of the log.

    Raises:
        DataError: they cannot be read, or none is sound.
    """
    data = settings.data
    from text2sql.training.model import load_tokenizer

    checked = check_rows(load_rows(data), data)
    if checked.counts:
        logger.warning("test rows set aside: %s", ", ".join(f"{why} {n}" for why, n in checked.counts.items()))
    valid = checked.valid
    chat = load_tokenizer(settings.model) if settings.model.chat_template else None
    if test_data is not None and not is_prepared(test_data):
        return format_split(valid, data.prompt_template, chat), None
    splits = format_splits(split_rows(valid, data), data, chat)
    if not splits["test"].num_rows:
        raise DataError(f"{test_data or 'the configured data'}: its test split is empty; raise data.test_ratio")
    return splits["test"], splits["train"] if splits["train"].num_rows else None


def _candidate(settings: Settings, candidates: Candidates, configured: ModelSection) -> Contender:
    limits = settings.evaluation
    if candidates.predictions is not None:
        return recorded_answers(candidates.predictions)
    if candidates.url is not None:
        return _served(candidates.url, candidates.model, limits)
    assert candidates.model is not None  # noqa: S101 - the command line asks for one of the three
    return _local(candidates.model, settings, configured)


def _local(model: str, settings: Settings, configured: ModelSection, few_shot: bool = False) -> Contender:
    """A folder, or a model of the hub; the configured revision is that of the configured model alone."""
    return local_model(
        model,
        settings.evaluation,
        revision=configured.revision if model == configured.name else None,
        trust_remote_code=configured.trust_remote_code,
        chat_template=configured.chat_template,
        few_shot=few_shot,
    )


def _served(url: str, model: str | None, limits: EvaluationSection) -> Contender:
    """A served model; its folder, where it is at hand, tells its tokens and how it wants to be asked."""
    folder = Path(model) if model and Path(model).is_dir() else None

    @contextmanager
    def opened() -> Iterator[Answerer]:
        from text2sql.evaluation.served import ServedModel
        from text2sql.training.model import load_tokenizer

        tokenizer = load_tokenizer(ModelSection(name=str(folder))) if folder else None
        name = None if folder else model
        with ServedModel(url, model=name, tokenizer=tokenizer, max_new_tokens=limits.max_new_tokens) as served:
            yield served

    if folder is None:
        return Contender(opened)
    return Contender(opened, recipe=read_recipe(folder))  # no checksum: that the server has this folder is its word
