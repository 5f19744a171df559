from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.training_fixtures import settings, tiny_model  # noqa: F401
from text2sql.config import Settings
from text2sql.data.prompt import render_prompt
from text2sql.errors import DataError
from text2sql.evaluation.evaluate import evaluate_systems, frozen_rows, plain_figures
from text2sql.evaluation.types import Evaluation
from text2sql.sql.parse import first_statement

CONTEXT = "CREATE TABLE head (name VARCHAR, age INTEGER)"


def rows_of(count: int, template: str) -> Dataset:
    questions = [f"Who is older than {i}?" for i in range(count)]
    golds = [f"SELECT name FROM head WHERE age > {i}" for i in range(count)]
    return Dataset.from_dict(
        {
            "prompt": [render_prompt(template, CONTEXT, question) for question in questions],
            "completion": golds,
            "question": questions,
            "context": [CONTEXT] * count,
            "answer": golds,
            "construct": ["where"] * count,
        }
    )


def test_systems_answer_the_same_frozen_rows(settings: Settings, tiny_model: Path):  # noqa: F811
    limited = settings.evaluation.model_copy(update={"max_rows": 5, "databases": 2, "max_new_tokens": 8})
    settings = settings.model_copy(update={"evaluation": limited})
    loaded: list[str] = []

    def loader(name: str):
        def load():
            loaded.append(name)
            return AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)

        return load

    rows = rows_of(9, settings.data.prompt_template)
    evaluation = evaluate_systems(rows, {"base": loader("base"), "tuned": loader("tuned")}, settings)
    assert loaded == ["base", "tuned"]
    assert len(evaluation.rows) == 5
    assert {row.gold for row in evaluation.rows} <= set(rows["answer"])
    base, tuned = evaluation.system("base"), evaluation.system("tuned")
    assert base.figures == tuned.figures  # the same model
    assert set(base.figures) == {
        "perplexity", "exact_match", "valid_sql", "execution_accuracy", "rouge_l", "bleu", "vacuous"
    }  # fmt: skip
    assert base.figures["perplexity"] >= 1
    assert len(base.predictions) == len(base.rows) == 5
    assert base.predictions == [first_statement(text) for text in base.predictions]
    assert evaluation.model == settings.model.name
    assert Evaluation.from_json(evaluation.to_json()) == evaluation


def test_figures_without_distractors_are_those_of_the_plain_schemas(settings: Settings, tiny_model: Path):  # noqa: F811
    limited = settings.evaluation.model_copy(update={"databases": 2, "max_new_tokens": 8})
    settings = settings.model_copy(update={"evaluation": limited})

    def load():
        return AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)

    plain = rows_of(3, settings.data.prompt_template)
    assert plain_figures(plain, load, settings) is None
    rich = plain.rename_columns({"context": "plain_context", "prompt": "plain_prompt"})
    rich = rich.add_column("context", ["CREATE TABLE head (name VARCHAR, town VARCHAR, age INTEGER)"] * 3)
    rich = rich.add_column("prompt", ["something else"] * 3)
    expected = evaluate_systems(plain, {"tuned": load}, settings).system("tuned").figures
    assert plain_figures(rich, load, settings) == expected


def test_frozen_rows_are_drawn_by_seed_and_keep_their_order():
    rows = Dataset.from_dict({"row_id": list(range(50))})
    ten = frozen_rows(rows, 10, seed=1)["row_id"][:]
    assert ten == frozen_rows(rows, 10, seed=1)["row_id"][:] == sorted(ten)
    assert ten != frozen_rows(rows, 10, seed=2)["row_id"][:]
    assert frozen_rows(rows, None, seed=1) is rows
    assert frozen_rows(rows, 50, seed=1) is rows


def test_no_rows_is_an_error(settings: Settings):  # noqa: F811
    with pytest.raises(DataError, match="no test rows"):
        evaluate_systems(rows_of(1, settings.data.prompt_template).select([]), {}, settings)


def test_answers_are_cut_behind_their_query(settings: Settings, tiny_model: Path, monkeypatch):  # noqa: F811
    """Which texts a tiny model makes is luck: these are given, and the rest is real."""
    rambling = "SELECT name FROM head WHERE age > 0;\n\nThe query selects the names."
    monkeypatch.setattr("text2sql.evaluation.generate.generate", lambda *_: [rambling])

    def load():
        return AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)

    evaluation = evaluate_systems(rows_of(1, settings.data.prompt_template), {"base": load}, settings)
    assert evaluation.system("base").predictions == ["SELECT name FROM head WHERE age > 0"]
    assert evaluation.system("base").rows[0].exact
