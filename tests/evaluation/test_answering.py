from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tests.training_fixtures import made_up_rows
from text2sql.config import EvaluationSection
from text2sql.data.prompt import encode_rows
from text2sql.errors import DataError, ModelError
from text2sql.evaluation.answering import LocalModel, local_model, recorded_answers
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


def answerer(loaded: Loaded, max_new_tokens: int = 8, batch_size: int = 4) -> LocalModel:
    limits = EvaluationSection(max_new_tokens=max_new_tokens, batch_size=batch_size)
    return LocalModel(*loaded, limits, "tiny")


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
    _, tokenizer = loaded
    answers = answerer(loaded).answers(PROMPTS)
    assert answerer(loaded).answers(PROMPTS[::-1]) == answers[::-1]
    assert not any(token in answer for answer in answers for token in tokenizer.all_special_tokens)
    assert all(answer == answer.strip() for answer in answers)
    assert answerer(loaded).answers([]) == []


def test_at_most_so_many_tokens(loaded: Loaded) -> None:
    model, tokenizer = loaded
    assert max(len(answer) for answer in generate_tokens(model, tokenizer, PROMPTS, 5, 4)) == 5


def test_the_models_mode_is_put_back(loaded: Loaded) -> None:
    model, _ = loaded
    model.train()
    answerer(loaded, 2, 2).answers(PROMPTS[:2])
    answerer(loaded, 2, 2).losses(Dataset.from_list(made_up_rows(2)))
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
def test_losses_are_those_of_the_completion_tokens(loaded: Loaded, batch_size: int) -> None:
    model, tokenizer = loaded
    rows = made_up_rows(11)
    measured = answerer(loaded, batch_size=batch_size).losses(Dataset.from_list(rows))
    encoded = encode_rows(tokenizer, [r["prompt"] for r in rows], [r["completion"] for r in rows])
    for row, loss in zip(encoded, measured, strict=True):
        ids, mask = torch.tensor(row["input_ids"]), torch.tensor(row["completion_mask"], dtype=torch.bool)
        with torch.no_grad():
            losses = torch.nn.functional.cross_entropy(model(ids[None]).logits[0, :-1], ids[1:], reduction="none")
        assert loss.tokens == int(mask.sum())
        assert loss.total == pytest.approx(float(losses[mask[1:]].sum()), rel=1e-5)


def test_a_model_folder_is_opened_with_its_checksum(tiny_model: Path) -> None:
    contender = local_model(tiny_model, EvaluationSection(max_new_tokens=2))
    assert len(contender.digest or "") == 64
    with contender.open() as answerer:
        assert answerer.source == tiny_model.name
        assert len(answerer.answers(PROMPTS[:3])) == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json.dumps(["SELECT 1", "SELECT 2"])),
        ("a.json", json.dumps([{"prediction": "SELECT 1"}, {"prediction": "SELECT 2", "row": 2}])),
        ("a.jsonl", '"SELECT 1"\n\n{"prediction": "SELECT 2"}\n'),
        ("a.sql", "SELECT 1\nSELECT 2\n"),
    ],
)
def test_predictions_in_a_file(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with recorded_answers(path).open() as answerer:
        assert answerer.answers(["p", "q"]) == ["SELECT 1", "SELECT 2"]
        assert answerer.losses(Dataset.from_list(made_up_rows(2))) is None
        with pytest.raises(DataError, match="holds 2 predictions for 3 test rows"):
            answerer.answers(["p", "q", "r"])


@pytest.mark.parametrize(("name", "text"), [("a.sql", "SELECT 1"), ("a.json", '["SELECT 1"]')])
def test_a_byte_order_mark_is_no_part_of_the_first_prediction(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8-sig")
    with recorded_answers(path).open() as answerer:
        assert answerer.answers(["p"]) == ["SELECT 1"]


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "[{}]", "7"])
def test_a_file_that_holds_no_predictions(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match="no list of predictions"):
        recorded_answers(path)
    with pytest.raises(DataError, match="cannot be read"):
        recorded_answers(tmp_path / "gone.json")
