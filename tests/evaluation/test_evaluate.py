from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from datasets import Dataset

from tests.training_fixtures import settings, tiny_model  # noqa: F401
from text2sql.config import Settings
from text2sql.data.prompt import render_prompt
from text2sql.errors import DataError
from text2sql.evaluation.answering import Contender, local_model
from text2sql.evaluation.evaluate import evaluate_systems, frozen_rows, plain_figures
from text2sql.evaluation.figures import FIGURES
from text2sql.evaluation.types import Evaluation
from text2sql.sql.parse import first_statement
from text2sql.training.recipe import public_name

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


class Parrot:
    """Answers that are given; it keeps the prompts that it was asked."""

    source = "parrot"
    tokenizer = None

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.asked: list[list[str]] = []
        self.opened = 0

    def answers(self, prompts: Sequence[str]) -> list[str]:
        self.asked.append(list(prompts))
        return self.texts

    def losses(self, _rows: Dataset) -> None:
        return None

    def contender(self, **more: object) -> Contender:
        @contextmanager
        def opened() -> Iterator[Parrot]:
            self.opened += 1
            yield self

        return Contender(opened, **more)


@pytest.fixture
def quick(settings: Settings) -> Settings:  # noqa: F811
    limited = settings.evaluation.model_copy(update={"databases": 2, "max_new_tokens": 8, "resamples": 50})
    return settings.model_copy(update={"evaluation": limited})


def test_systems_answer_the_same_frozen_rows(quick: Settings, tiny_model: Path):  # noqa: F811
    limited = quick.evaluation.model_copy(update={"max_rows": 5})
    quick = quick.model_copy(update={"evaluation": limited})
    rows = rows_of(9, quick.data.prompt_template)
    model = local_model(tiny_model, quick.evaluation)
    evaluation = evaluate_systems(rows, {"tuned": model, "base": model}, quick)
    assert len(evaluation.rows) == 5
    assert {row.gold for row in evaluation.rows} <= set(rows["answer"])
    assert evaluation.rows[0].construct == "where"
    assert evaluation.rows[0].slices["tables"] == ("1",)
    tuned, base = evaluation.system("tuned"), evaluation.system("base")
    assert evaluation.subject is tuned
    assert base.figures == tuned.figures  # the same model
    assert set(base.figures) == {figure.key for figure in FIGURES}
    assert set(base.intervals) == set(base.figures)
    assert base.figures["perplexity"] >= 1
    assert len(base.predictions) == len(base.rows) == len(base.losses or []) == 5
    assert base.predictions == [first_statement(text) for text in base.predictions]
    assert base.digest == model.digest
    assert evaluation.model == public_name(quick.model.name)
    assert Evaluation.from_json(evaluation.to_json()) == evaluation


def test_two_runs_give_the_same_figures_to_the_last_digit(quick: Settings):
    rows = rows_of(12, quick.data.prompt_template)
    texts = [gold if i % 3 else "SELECT age FROM head" for i, gold in enumerate(rows["answer"])]
    contenders = {"tuned": Parrot(texts).contender(), "base": Parrot(texts[::-1]).contender()}
    first, second = (evaluate_systems(rows, contenders, quick) for _ in range(2))
    assert first.rows_digest == second.rows_digest
    assert [(s.figures, s.intervals, s.rows) for s in first.systems] == [
        (s.figures, s.intervals, s.rows) for s in second.systems
    ]
    assert (first.comparisons, first.slices) == (second.comparisons, second.slices)


def test_the_first_system_is_compared_with_every_other(quick: Settings):
    rows = rows_of(6, quick.data.prompt_template)
    right, wrong = rows["answer"][:], ["SELECT age FROM head"] * 6
    contenders = {
        "tuned": Parrot(right).contender(),
        "base": Parrot(wrong).contender(),
        "champion": Parrot(right[:3] + wrong[3:]).contender(),
    }
    evaluation = evaluate_systems(rows, contenders, quick)
    base, champion = evaluation.comparisons
    assert (base.system, base.other, base.difference, base.only_system, base.only_other) == ("tuned", "base", 1.0, 6, 0)
    assert (champion.other, champion.difference, champion.p_value) == ("champion", 0.5, 0.25)


def test_a_base_gets_a_second_try_with_examples(quick: Settings):
    rows = rows_of(4, quick.data.prompt_template)
    training = rows_of(30, quick.data.prompt_template).select(range(10, 30))
    parrot = Parrot(rows["answer"][:])
    evaluation = evaluate_systems(rows, {"base": parrot.contender(few_shot=True)}, quick, training)
    assert [system.name for system in evaluation.systems] == ["base", "base_few_shot"]
    assert parrot.opened == 1, "one model for both"
    plain, prompted = parrot.asked
    assert all(long.endswith(short) and len(long) > len(short) for short, long in zip(plain, prompted, strict=True))
    none = quick.model_copy(update={"evaluation": quick.evaluation.model_copy(update={"few_shot": 0})})
    assert len(evaluate_systems(rows, {"base": parrot.contender(few_shot=True)}, none, training).systems) == 1


def test_a_base_that_was_asked_under_another_name_is_still_shown_examples(quick: Settings):
    rows = rows_of(3, quick.data.prompt_template)
    parrot = Parrot(rows["answer"][:])
    contenders = {"model": parrot.contender(digest="d"), "base": parrot.contender(digest="d", few_shot=True)}
    evaluation = evaluate_systems(rows, contenders, quick, rows)
    assert [system.name for system in evaluation.systems] == ["model", "base", "base_few_shot"]
    assert len(parrot.asked) == 2, "the plain prompts once"


def test_a_model_under_two_names_is_asked_once(quick: Settings):
    rows = rows_of(3, quick.data.prompt_template)
    first, second = Parrot(rows["answer"][:]), Parrot(["never asked"] * 3)
    contenders = {"tuned": first.contender(digest="d"), "champion": second.contender(digest="d")}
    evaluation = evaluate_systems(rows, contenders, quick)
    assert (first.opened, second.opened) == (1, 0)
    assert evaluation.system("champion").figures == evaluation.system("tuned").figures
    assert evaluation.comparisons[0].p_value == 1.0


def test_what_a_source_cannot_tell_is_not_there(quick: Settings):
    rows = rows_of(3, quick.data.prompt_template)
    tuned = evaluate_systems(rows, {"tuned": Parrot(rows["answer"][:]).contender()}, quick).subject
    assert tuned.losses is None
    assert "perplexity" not in tuned.figures
    assert tuned.figures["exact_match"] == 1.0


def test_figures_without_distractors_are_those_of_the_plain_schemas(quick: Settings, tiny_model: Path):  # noqa: F811
    model = local_model(tiny_model, quick.evaluation)
    plain = rows_of(3, quick.data.prompt_template)
    assert plain_figures(plain, model, quick) is None
    rich = plain.remove_columns(["context", "prompt"]).add_column("plain_context", plain["context"][:])
    rich = rich.add_column("context", ["CREATE TABLE head (name VARCHAR, town VARCHAR, age INTEGER)"] * 3)
    rich = rich.add_column("prompt", ["something else"] * 3).add_column("plain_prompt", plain["prompt"][:])
    expected = evaluate_systems(plain, {"tuned": model}, quick).system("tuned").figures
    assert plain_figures(rich, model, quick) == expected


def test_frozen_rows_are_drawn_by_seed_and_keep_their_order():
    rows = Dataset.from_dict({"row_id": list(range(50))})
    ten = frozen_rows(rows, 10, seed=1)["row_id"][:]
    assert ten == frozen_rows(rows, 10, seed=1)["row_id"][:] == sorted(ten)
    assert ten != frozen_rows(rows, 10, seed=2)["row_id"][:]
    assert frozen_rows(rows, None, seed=1) is rows
    assert frozen_rows(rows, 50, seed=1) is rows


def test_no_rows_is_an_error(quick: Settings):
    with pytest.raises(DataError, match="no test rows"):
        evaluate_systems(rows_of(1, quick.data.prompt_template).select([]), {}, quick)


def test_answers_are_cut_behind_their_query(quick: Settings):
    rambling = "SELECT name FROM head WHERE age > 0;\n\nThe query selects the names."
    rows = rows_of(1, quick.data.prompt_template)
    tuned = evaluate_systems(rows, {"tuned": Parrot([rambling]).contender()}, quick).subject
    assert tuned.predictions == ["SELECT name FROM head WHERE age > 0"]
    assert tuned.rows[0].exact
