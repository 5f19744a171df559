"""Where a run happens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipelines import PIPELINES, stacks
from text2sql.errors import StackError


def test_shipped_plans_name_real_steps():
    known = {step for entry in PIPELINES.values() for step in entry.steps}
    plans = sorted(stacks.STACKS.glob("*.yaml"))
    assert plans
    for path in plans:
        assert set(stacks.read_plan(path.stem).steps) <= known


def test_every_problem_of_a_plan_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stacks, "STACKS", tmp_path)
    (tmp_path / "local.yaml").write_text("stepz: {}\nsteps: {merge: {need: x}}\n")
    with pytest.raises(StackError, match=r"steps.merge.need.*stepz|stepz.*steps.merge.need"):
        stacks.read_plan("local")
    assert stacks.read_plan("kubernetes") == stacks.StackPlan()


@pytest.mark.filterwarnings("ignore:DELETE statement on table")  # ZenML's own clean-up
def test_a_stack_is_active_for_one_run_only(zenml_client: Any):
    default = zenml_client.active_stack_model
    parts = {kind: found[0].id for kind, found in default.components.items()}
    other = zenml_client.create_stack(name="other", components=parts)
    try:
        place = stacks.find_place("other")
        assert (place.stack, place.orchestrator) == ("other", "local")
        with stacks.active(place):
            assert zenml_client.active_stack_model.id == other.id
        assert zenml_client.active_stack_model.id == default.id
        assert stacks.ACTIVE not in os.environ
        assert stacks.find_place(None).stack == "default"
    finally:
        zenml_client.delete_stack(other.id)


def test_an_unknown_stack(zenml_client: Any):
    with pytest.raises(StackError, match=r"no stack 'gpu' is registered; there are: default"):
        stacks.find_place("gpu")
