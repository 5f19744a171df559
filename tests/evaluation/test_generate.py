from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tests.training_fixtures import made_up_rows
from text2sql.data.prompt import encode_rows
from text2sql.errors import ModelError
from text2sql.evaluation.generate import completion_perplexity, generate
from text2sql.training.decoding import end_tokens, generate_tokens
from text2sql.training.model import load_for_inference

PROMPTS = [row["prompt"] for row in made_up_rows(13)] + ["CREATE", "CREATE TABLE ship (weight INTEGER)\n" * 6]

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Loaded:
    """With sharper logits than a random model has, and an end token that comes up now and then."""
    model, tokenizer = load_for_inference(tiny_model)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    return model, tokenizer


def one_by_one(loaded: Loaded, steps: int) -> list[list[int]]:
    """transformers' own greedy search, one prompt at a time."""
    model, tokenizer = loaded
    answers = []
    for prompt in PROMPTS:
        encoded = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**encoded, max_new_tokens=steps, do_sample=False)
        answers.append([t for t in out[0, encoded["input_ids"].shape[1] :].tolist() if t != tokenizer.eos_token_id])
    return answers


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_batches_answer_like_transformers_one_by_one(loaded: Loaded, batch_size: int) -> None:
    model, tokenizer = loaded
    assert generate_tokens(model, tokenizer, PROMPTS, 12, batch_size) == one_by_one(loaded, 12)


def test_rows_that_end_leave_the_batch_and_the_others_go_on(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token that some answer begins or goes on with is made the end token, in turn."""
    model, tokenizer = loaded
    whole = generate_tokens(model, tokenizer, PROMPTS, 12, 64)
    for end in {answer[place] for answer in whole for place in (0, 3)}:
        monkeypatch.setattr(model.generation_config, "eos_token_id", [tokenizer.eos_token_id, end])
        cut = [answer[: answer.index(end)] if end in answer else answer for answer in whole]
        assert generate_tokens(model, tokenizer, PROMPTS, 12, 64) == cut
        assert cut != whole


def test_answers_come_in_the_order_of_the_prompts_without_special_tokens(loaded: Loaded) -> None:
    model, tokenizer = loaded
    answers = generate(model, tokenizer, PROMPTS, 8, 4)
    assert generate(model, tokenizer, PROMPTS[::-1], 8, 4) == answers[::-1]
    assert not any(token in answer for answer in answers for token in tokenizer.all_special_tokens)
    assert all(answer == answer.strip() for answer in answers)
    assert generate(model, tokenizer, [], 8, 4) == []


def test_at_most_so_many_tokens(loaded: Loaded) -> None:
    model, tokenizer = loaded
    assert max(len(answer) for answer in generate_tokens(model, tokenizer, PROMPTS, 5, 4)) == 5


def test_the_models_mode_is_put_back(loaded: Loaded) -> None:
    model, tokenizer = loaded
    model.train()
    generate(model, tokenizer, PROMPTS[:2], 2, 2)
    completion_perplexity(model, tokenizer, Dataset.from_list(made_up_rows(2)), 2)
    assert model.training
    model.eval()


def test_without_an_end_token_no_answer_would_end(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = loaded
    assert end_tokens(model, tokenizer) == {tokenizer.eos_token_id}
    monkeypatch.setattr(model.generation_config, "eos_token_id", None)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="end token"):
        end_tokens(model, tokenizer)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_perplexity_is_over_completion_tokens(loaded: Loaded, batch_size: int) -> None:
    model, tokenizer = loaded
    rows = made_up_rows(11)
    total, count = 0.0, 0
    for row in encode_rows(tokenizer, [r["prompt"] for r in rows], [r["completion"] for r in rows]):
        ids, mask = torch.tensor(row["input_ids"]), torch.tensor(row["completion_mask"], dtype=torch.bool)
        with torch.no_grad():
            losses = torch.nn.functional.cross_entropy(model(ids[None]).logits[0, :-1], ids[1:], reduction="none")
        total += float(losses[mask[1:]].sum())
        count += int(mask.sum())
    measured = completion_perplexity(model, tokenizer, Dataset.from_list(rows), batch_size)
    assert math.log(measured) == pytest.approx(total / count, rel=1e-5)
