"""An adapter folder, served without having been merged to a folder before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.serving.decoding import PROMPTS, alone, real_model_of, served
from text2sql.serving.engine import Completion, Options
from text2sql.serving.transformers_engine import TransformersEngine

if TYPE_CHECKING:
    from text2sql.training.finetune import TrainedAdapter


def test_an_adapter_is_served_on_its_base(tiny_model: Path, trained: TrainedAdapter):
    from text2sql.config import EvaluationSection, ModelSection, Settings
    from text2sql.evaluation.answering import LocalModel
    from text2sql.training.merge import load_adapter
    from text2sql.training.model import load_tokenizer

    found = served(trained.path, lambda engine: engine.generate(PROMPTS[:6], Options(max_new_tokens=16)))
    settings = Settings(model=ModelSection(name=str(tiny_model), quantization_bits=16))
    tokenizer = load_tokenizer(ModelSection(name=str(trained.path)))
    model = load_adapter(trained.path, settings, tokenizer)
    merged = LocalModel(model, tokenizer, EvaluationSection(max_new_tokens=16, batch_size=1), "adapter on base")
    assert [c.text for [c] in found] == merged.answers(PROMPTS[:6])
    assert [c.text for [c] in found] != alone(tiny_model, PROMPTS[:6], 16)


def test_an_adapter_that_is_not_folded_in_answers_as_its_own_generate(
    tiny_model: Path, trained: TrainedAdapter, monkeypatch: pytest.MonkeyPatch
):
    """As on a GPU, in 16 bits, where it stays beside its base: attention by slots must reach through it."""
    import torch
    from peft import PeftModel

    from text2sql.config import ModelSection, Settings
    from text2sql.training.merge import load_adapter
    from text2sql.training.model import load_tokenizer

    # Folded in it is in fp32 alone, and fp32 is what makes answers comparable to the letter.
    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda model: model, raising=False)

    async def work(engine: TransformersEngine) -> list[list[Completion]]:
        model = real_model_of(engine)
        assert isinstance(model, PeftModel)
        assert not any(getattr(module, "merged", False) for module in model.modules())
        return await engine.generate(PROMPTS[:6], Options(max_new_tokens=16))

    found = served(trained.path, work)
    tokenizer: Any = load_tokenizer(ModelSection(name=str(trained.path)))
    settings = Settings(model=ModelSection(name=str(tiny_model), quantization_bits=16))
    same = load_adapter(trained.path, settings, tokenizer)
    expected = []
    for prompt in PROMPTS[:6]:
        ids = tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            out = same.generate(**ids, max_new_tokens=16, do_sample=False)
        expected.append(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    assert [c.text for [c] in found] == expected
    assert expected != alone(tiny_model, PROMPTS[:6], 16)
