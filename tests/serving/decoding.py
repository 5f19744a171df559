"""Engines of transformers for tests, what they are asked, and the answers of the same model one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from tests.training_fixtures import made_up_rows
from text2sql.serving.transformers_engine import TransformersEngine

if TYPE_CHECKING:
    from text2sql.serving.scheduler import Limits

T = TypeVar("T")
PROMPTS = [row["prompt"] for row in made_up_rows(40)]


def limits(**values: int) -> Limits:
    from text2sql.serving.scheduler import Limits

    return Limits(**values)


def served(model: Path, work: Callable[[TransformersEngine], Awaitable[T]], **options: Any) -> T:
    """What `work` returns, run on a started engine."""

    async def main() -> T:
        async with TransformersEngine(model, **options) as engine:
            return await work(engine)

    return asyncio.run(main())


def alone(model: Path, prompts: list[str], max_new_tokens: int) -> list[str]:
    """The greedy answer to each prompt, one at a time, by the code of the evaluation."""
    import torch

    from text2sql.config import EvaluationSection
    from text2sql.evaluation.answering import LocalModel
    from text2sql.training.model import load_for_inference

    loaded, tokenizer = load_for_inference(model)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several only wait for each other at this size, and long on a busy machine
    try:
        limits = EvaluationSection(max_new_tokens=max_new_tokens, batch_size=1)
        return LocalModel(loaded, tokenizer, limits, "alone").answers(prompts)
    finally:
        torch.set_num_threads(threads)


def real_model_of(engine: TransformersEngine) -> Any:
    assert engine._scheduler is not None
    return engine._scheduler._batch.model


@contextmanager
def before_each_pass(engine: TransformersEngine, hook: Callable[[Any], None]) -> Iterator[None]:
    """Call `hook` with the token ids of every forward pass."""
    handle = real_model_of(engine).register_forward_pre_hook(
        lambda _module, _arguments, named: hook(named["input_ids"]), with_kwargs=True
    )
    try:
        yield
    finally:
        handle.remove()


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    for _ in range(int(seconds / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it did not happen in time")
