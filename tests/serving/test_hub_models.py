"""`--model org/name`: a hub that has it, had it, does not give it, breaks off, or is not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.hub import Hub, hub_of_models
from text2sql.errors import ModelError
from text2sql.serving.checkpoint import find_checkpoint
from text2sql.serving.loading import load_served
from text2sql.serving.recipe import served_recipe
from text2sql.serving.settings import ServerSettings
from text2sql.training.recipe import Recipe, write_recipe

NAME = "someone/sql"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with hub_of_models(tmp_path / "cache") as found:
        yield found


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """With the recipe that it was trained by."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    write_recipe(folder, Recipe(prompt_template="{context} first: {question}"))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    return folder


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("gone", "the hub does not give it; check the name"),
        ("gated", "for a gated model HF_TOKEN"),
        ("down", "check the name and model.revision, the network"),
        ("truncated", "the network, .*peer closed connection"),
    ],
)
def test_row_24_what_the_hub_does_not_give_is_one_line(hub: Hub, model: Path, fault: str, said: str):
    hub.push(NAME, model)
    hub.fault = fault
    with pytest.raises(ModelError, match=f"cannot load model '{NAME}': .*{said}") as caught:
        find_checkpoint(NAME)
    assert "\n" not in str(caught.value)
    hub.fault = ""
    assert find_checkpoint(NAME).name == NAME, "what was broken off is fetched again"


def test_a_revision_that_is_not_there_is_one_line(hub: Hub, model: Path):
    hub.push(NAME, model)
    with pytest.raises(ModelError, match="check the name and model.revision"):
        find_checkpoint(NAME, revision="no-such-branch")


def test_row_24_a_pinned_revision_is_what_is_served(
    hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = hub.push(NAME, model)
    newer = Path(shutil.copytree(model, tmp_path / "newer"))
    write_recipe(newer, Recipe(prompt_template="{question} last: {context}"))
    second = hub.push(NAME, newer)
    assert find_checkpoint(NAME, revision=first).folder.name == first
    assert find_checkpoint(NAME).folder.name == second
    asked = len(hub.asked)
    hub.fault = "down"
    assert find_checkpoint(NAME, revision=first).folder.name == first
    assert len(hub.asked) == asked, "a commit that the cache has is not asked for"
    assert find_checkpoint(NAME).folder.name == second, "and the newest that it has serves while the hub is down"
    del hub.commits[NAME][first]
    hub.goes(monkeypatch)
    model_of, tokenizer = load_served(NAME, None, first)
    assert model_of.config.vocab_size == len(tokenizer)


def test_row_25_of_a_hub_model_no_pickle_is_fetched(hub: Hub, model: Path):
    hub.push(NAME, model)
    found = find_checkpoint(NAME).folder
    assert (found / "model.safetensors").is_file()
    assert not (found / "pytorch_model.bin").exists()


@pytest.mark.parametrize("pinned", [True, False])
def test_row_28_a_hub_model_is_asked_as_its_own_recipe_says(
    hub: Hub, model: Path, pinned: bool, monkeypatch: pytest.MonkeyPatch
):
    commit = hub.push(NAME, model)
    settings = ServerSettings(model=NAME, revision=commit if pinned else None)
    assert served_recipe(settings).prompt_template == "{context} first: {question}"
    hub.goes(monkeypatch)
    assert served_recipe(settings).prompt_template == "{context} first: {question}"


def test_a_hub_model_without_a_recipe_is_asked_by_the_defaults(
    hub: Hub, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    hub.push(NAME, tiny_model)
    assert served_recipe(ServerSettings(model=NAME)) == Recipe()
    find_checkpoint(NAME)
    hub.goes(monkeypatch)
    assert served_recipe(ServerSettings(model=NAME)) == Recipe(), "the cache has all of it, and no recipe"


def test_offline_the_cache_serves_and_what_it_lacks_is_one_line(hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub.constants

    commit = hub.push(NAME, model)
    find_checkpoint(NAME)
    asked = len(hub.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find_checkpoint(NAME).folder.name == commit
    assert json.loads((find_checkpoint(NAME).folder / "config.json").read_text())["model_type"] == "mistral"
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set and the model is not in the local cache"):
        find_checkpoint("someone/else")
    assert len(hub.asked) == asked
