"""Row 28 with a real model behind the real API: what answers otherwise than was judged does not go live."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.deployment.stand_in import StandIn
from tests.serving.api import Running, running
from text2sql.config import EvaluationSection
from text2sql.data.files import sha256_folder
from text2sql.deployment.checks import Question, Tell
from text2sql.deployment.release import Release
from text2sql.deployment.target import Limits, deploy
from text2sql.errors import DeploymentError
from text2sql.serving.engines import build_served
from text2sql.serving.settings import ServerSettings
from text2sql.training.recipe import Recipe, write_recipe

JUDGED = "{{ bos_token }}[INST]{{ messages[0]['content'] }}[/INST]"
ANOTHER = "{{ bos_token }}<|user|>{{ messages[0]['content'] }}<|assistant|>"
TOKENS = 12


@dataclass
class RealServer:
    """The API over a model folder, with Transformers."""

    version: str
    folder: Path
    inside: Running = field(init=False)

    def __post_init__(self) -> None:
        settings = {"model": str(self.folder), "model_version": self.version}
        self._context = running(build_served(ServerSettings(**settings)), **settings)  # type: ignore[arg-type]
        self.inside = self._context.__enter__()

    @property
    def address(self) -> str:
        return self.inside.url

    def end(self) -> None:
        self._context.__exit__(None, None, None)


class Real(StandIn):
    """Its servers are real."""

    def stage(self, wanted: Release, folder: Path, tell: Tell) -> str:  # noqa: ARG002
        self.staged = RealServer(wanted.version, folder)  # type: ignore[assignment]
        self.alive.append(self.staged)  # type: ignore[arg-type]
        return self.staged.address  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def judged(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model's folder, as training leaves it."""
    folder = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("parity") / "judged"))
    (folder / "chat_template.jinja").write_text(JUDGED)
    write_recipe(folder, Recipe(prompt_template="{context}\n{question}\n", chat_template=True, max_new_tokens=TOKENS))
    return folder


@pytest.fixture(scope="module")
def questions(judged: Path) -> list[Question]:
    """With the answers that the evaluation gets from the folder."""
    from text2sql.data.prompt import render_prompt
    from text2sql.evaluation.answering import local_model

    asked = [(f"CREATE TABLE t{i} (c{i} INTEGER)", f"What is c{i} of t{i}?") for i in range(12)]
    contender = local_model(judged, EvaluationSection(max_new_tokens=TOKENS))
    assert contender.recipe is not None
    with contender.open() as answerer:
        prompts = [render_prompt(contender.recipe.prompt_template, *pair, answerer.tokenizer) for pair in asked]
        answers = answerer.answers(prompts)
    return [
        Question(question, schema, answer, False) for (schema, question), answer in zip(asked, answers, strict=True)
    ]


def another_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(ANOTHER)


def another_prompt(folder: Path) -> None:
    write_recipe(folder, Recipe(prompt_template="{question}\n{context}\n", chat_template=True, max_new_tokens=TOKENS))


def no_recipe(folder: Path) -> None:
    (folder / "text2sql.json").unlink()


def other_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file({name: -tensor for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"})


def release(version: str, folder: Path) -> Release:
    return Release("model", version, sha256_folder(folder), "Gate passed: 1 rule kept", "2026-01-01T00:00:00")


def test_row_28_a_real_model_that_is_not_what_was_judged_does_not_go_live(
    judged: Path, questions: list[Question], tmp_path: Path
):
    target, told = Real(), list[str]()
    limits = Limits(min_agreement=0.9, check_seconds=60.0)
    changes: list[Callable[[Path], None]] = [another_template, another_prompt, no_recipe, other_weights]
    try:
        deployed = deploy(target, release("1", judged), judged, questions, limits, told.append)
        assert deployed.parity is not None
        assert (deployed.parity.same, deployed.parity.skipped) == (len(questions), 0)
        for number, change in enumerate(changes, 2):
            folder = Path(shutil.copytree(judged, tmp_path / change.__name__))
            change(folder)
            with pytest.raises(DeploymentError, match=r"test rows as the evaluated model did.*; version 1 serves on"):
                deploy(target, release(str(number), folder), folder, questions, limits, told.append)
            assert target.current is not None
            assert target.current.version == "1"
    finally:
        target.stop(told.append)
