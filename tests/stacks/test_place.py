"""Where a run happens."""

from __future__ import annotations

import os
from typing import Any

import pytest

from stacks import place
from stacks.files import read_stack
from text2sql.errors import StackError


@pytest.mark.filterwarnings("ignore:DELETE statement on table")  # ZenML's own clean-up
def test_a_stack_is_active_for_one_run_only(zenml_client: Any):
    default = zenml_client.active_stack_model
    parts = {kind: found[0].id for kind, found in default.components.items()}
    other = zenml_client.create_stack(name="other", components=parts)
    try:
        found = place.find_place("other")
        assert (found.stack, found.orchestrator, found.is_here) == ("other", "local", True)
        assert found.file == read_stack("local"), "the file of its orchestrator's kind"
        with place.active(found):
            assert zenml_client.active_stack_model.id == other.id
        assert zenml_client.active_stack_model.id == default.id
        assert place.ACTIVE not in os.environ
        assert place.find_place(None).stack == "default"
    finally:
        zenml_client.delete_stack(other.id)


def test_an_unknown_stack(zenml_client: Any):
    with pytest.raises(
        StackError, match=r"no stack 'gpu' is registered; there are: .*default.* stacks/ has a file for"
    ):
        place.find_place("gpu")


def test_a_shipped_stack_that_is_not_registered_names_the_command(zenml_client: Any):
    with pytest.raises(StackError, match="stack 'local' is not registered; .*--pipeline register-stack --stack local"):
        place.find_place("local")


def test_a_planned_place_asks_nobody(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(place, "zenml_client", lambda: pytest.fail("ZenML was asked"))
    planned = place.planned_place("kubernetes")
    assert (planned.orchestrator, planned.is_here) == ("kubernetes", False)
    assert planned.needs("finetune") == "1 × NVIDIA-A10G, 4 cores, 32Gi; 7B in 4 bits: about 10 GiB of GPU memory"
    assert planned.needs("ingest") == "2 cores, 4Gi"
    assert planned.pipeline_options()["settings"]["docker"] == {
        "parent_image": "registry.example.com/text2sql/trainer:0.1.0",
        "skip_build": True,
        "allow_download_from_artifact_store": False,
        "allow_download_from_code_repository": False,
    }
    local = place.planned_place("local")
    assert (local.is_here, local.pipeline_options(), local.step_options("finetune")) == (True, {}, {})


def test_a_stack_that_nothing_here_knows_gets_no_settings():
    foreign = place.Place("theirs", "sagemaker", None)
    assert (foreign.pipeline_options(), foreign.step_options("merge"), foreign.needs("merge")) == ({}, {}, "")


def test_a_step_with_an_image_of_its_own():
    file = read_stack("kubernetes")
    steps = {"merge": file.steps["merge"].model_copy(update={"image": "r/big:1"})}
    planned = place.Place("k", "kubernetes", file.model_copy(update={"steps": steps}))
    assert planned.step_options("merge")["settings"]["docker"]["parent_image"] == "r/big:1"
