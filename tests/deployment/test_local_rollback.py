"""Back to the version before, and away from one that nobody has verified."""

from __future__ import annotations

import time

import pytest

from tests.deployment.local import WRONG, Local, promoted
from tests.serving.api import until
from text2sql.errors import DeploymentError

pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning")]  # the gateway is a child that outlives us


def test_row_30_back_and_forth_also_when_what_serves_is_broken(local: Local):
    with pytest.raises(DeploymentError, match="no version to go back to"):
        local.target.rollback(local.told.append)
    local.deploy("1")
    local.deploy("2", asked=20)
    for _ in range(20):  # it dies, and is started again with a pause that grows
        local.answering()
    assert local.target.rollback(local.told.append).version == "1"
    assert local.answering() == "1"
    assert local.target.rollback(local.told.append).version == "2"
    status = local.target.status()
    assert status.current is not None
    assert status.previous is not None
    assert (status.current.release.version, status.previous.release.version) == ("2", "1")
    assert status.previous.state == "stopped"


@pytest.mark.parametrize("ended", [True, False], ids=["stopped", "with-other-settings"])
def test_the_same_version_again_keeps_the_one_before_it(local: Local, ended: bool):
    local.deploy("1")
    local.deploy("2")
    if ended:
        local.target.stop(local.told.append)
    else:
        local.change(startup_seconds=21)
    assert local.deploy("2").parity is not None
    assert local.target.rollback(local.told.append).version == "1"
    assert local.answering() == "1"


def test_what_was_stopped_stays_so_until_something_goes_live(local: Local):
    local.deploy("1")
    local.deploy("2")
    local.target.stop(local.told.append)
    seen: list[tuple[int, str | None]] = []
    local.hook = lambda line: seen.append((len(local.servers()), local.answering())) if "smoke" in line else None
    with pytest.raises(DeploymentError, match="as the evaluated model did.*; nothing is served"):
        local.deploy("3", answers=WRONG)
    assert seen == [(1, None)], "the new one has the memory for itself"
    until(lambda: local.processes() == [], 30)
    assert local.target.rollback(local.told.append).version == "1"
    assert local.answering() == "1"


def test_one_that_nobody_verified_does_not_stay(live: Local):
    promoted(live, "2")
    until(lambda: live.answering() == "1", 20)
    until(lambda: len(live.servers()) == 1, 20)
    status = live.target.status()
    assert status.previous is None


def test_a_rollback_from_one_that_nobody_verified_goes_to_the_one_before_it(local: Local):
    local.deploy("1")
    local.deploy("2")
    promoted(local, "3")
    assert local.target.rollback(local.told.append).version == "2"
    assert local.answering() == "2"
    promoted(local, "3")
    assert local.deploy("3").parity is not None, "that it answers already does not count"
    assert local.target.rollback(local.told.append).version == "2"


def test_a_rollback_while_the_old_one_still_ends_does_not_count_on_it(local: Local):
    local.deploy("1", lingers=4)
    local.deploy("2")
    local.target.rollback(local.told.append)
    assert local.answering() == "1"
    until(lambda: len(local.servers()) == 1, 20)
    assert local.answering() == "1"


def test_a_rollback_to_a_damaged_model_is_refused(local: Local):
    first = local.deploy("1").release
    local.deploy("2")
    (local.state.releases / first.digest / "plan.json").write_text("{}")
    with pytest.raises(DeploymentError, match="is damaged or gone"):
        local.target.rollback(local.told.append)
    assert local.answering() == "2"


def test_a_rollback_is_instant_where_the_previous_one_runs_on(local: Local):
    local.change(keep_previous="running")
    local.deploy("1", slow=2)
    local.deploy("2")
    begun = time.monotonic()
    local.target.rollback(local.told.append)
    assert time.monotonic() - begun < 2
    assert local.answering() == "1"
    status = local.target.status()
    assert status.previous is not None
    assert status.previous.state == "up"
