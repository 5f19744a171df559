"""Runs that were cut off do not look as if they ran for ever."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [
    pytest.mark.usefixtures("zenml_client"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of ZenML and what it stands on
]

NAME = "reconciled"


@pytest.fixture
def under_way(zenml_client: Any) -> Callable[[dict[str, Any] | None], Any]:
    """A run that ZenML takes to be running, with what its pipeline says of its process."""
    from zenml import pipeline, step
    from zenml.enums import ExecutionStatus
    from zenml.models import PipelineRunUpdate
    from zenml.pipelines.run_utils import create_placeholder_run

    @step
    def one() -> None:
        """Nothing."""

    @pipeline
    def small() -> None:
        one()

    def make(process: dict[str, Any] | None) -> Any:
        extra = {"process": process} if process else None
        ready = small.with_options(extra=extra, tags=[NAME], run_name=f"small-{len(made)}-{{date}}-{{time}}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ready.prepare()
            snapshot = ready._create_snapshot(**ready._run_args)
        run = create_placeholder_run(snapshot, orchestrator_run_id=f"reconcile-{len(made)}")
        update = PipelineRunUpdate(status=ExecutionStatus.RUNNING)
        made.append(zenml_client.zen_store.update_run(run.id, update))
        return made[-1]

    made: list[Any] = []
    return make


def status(client: Any, run: Any) -> str:
    return str(client.get_pipeline_run(run.id).status)


def test_a_run_whose_process_is_gone_has_failed_and_others_go_on(
    under_way: Callable[..., Any], zenml_client: Any, capsys: pytest.CaptureFixture[str]
):
    from steps.reconcile import reconcile, this_process
    from text2sql.deployment.state import started_at

    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    gone = {**this_process(), "pid": child.pid, "started": started_at(child.pid)}
    killed = under_way(gone)
    child.kill()
    child.wait()
    reused = under_way({**this_process(), "started": "the process before that had this number"})
    alive = under_way(this_process())
    elsewhere = under_way({"host": "another-machine", "pid": 1, "started": "x"})
    unknown = under_way(None)
    own = under_way(gone)
    assert reconcile("another-model") == []
    assert sorted(reconcile(NAME, own.id)) == sorted([killed.name, reused.name])
    assert (status(zenml_client, killed), status(zenml_client, reused)) == ("failed", "failed")
    assert {status(zenml_client, run) for run in (alive, elsewhere, unknown, own)} == {"running"}
    assert f"run {killed.name} was cut off, and is marked as failed" in capsys.readouterr().err
    assert reconcile(NAME, own.id) == [], "once"


def test_a_run_of_another_machine_is_lost_after_a_week(
    under_way: Callable[..., Any], zenml_client: Any, monkeypatch: pytest.MonkeyPatch
):
    from datetime import timedelta

    from steps import reconcile

    run = under_way({"host": "another-machine", "pid": 1, "started": "x"})
    monkeypatch.setattr(reconcile, "LONGEST", timedelta(0))
    assert run.name in reconcile.reconcile(NAME)
    assert status(zenml_client, run) == "failed"
