"""Going live in a cluster and back, with rollouts that go well and in every way wrong."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from tests.deployment.kubernetes.api_server import Fault, StandIn
from tests.deployment.kubernetes.conftest import QUESTIONS, Place, release
from text2sql.deployment.kubernetes.manifests import CANDIDATE, RELEASES
from text2sql.deployment.target import Limits, deploy
from text2sql.errors import DeploymentError


def remembered(place: Place) -> dict[str, str]:
    data = place.get("ConfigMap", RELEASES)["data"]
    return {name.removesuffix(".json"): json.loads(text)["release"]["version"] for name, text in data.items()}


def assert_clean(place: Place) -> None:
    assert place.cluster().get("Deployment", CANDIDATE) is None
    assert place.cluster().get("Service", CANDIDATE) is None
    assert place.cluster().get("Lease", "text2sql-deploy") is None


def test_a_good_one_takes_over_and_says_what_it_is(either: Place):
    first = either.deploy("1")
    assert first.status.current is not None
    assert (first.status.current.state, first.status.current.release.version) == ("up", "1")
    assert first.status.previous is None
    second = either.deploy("2")
    assert second.parity is not None
    assert second.parity.same == 8
    assert second.status.current is not None
    assert second.status.previous is not None
    assert (second.status.current.release.version, second.status.previous.release.version) == ("2", "1")
    assert either.version() == "2"
    assert remembered(either) == {"current": "2", "previous": "1"}
    deployment = either.get("Deployment", "text2sql-server")
    assert (
        deployment["metadata"]["annotations"].items()
        >= {
            "text2sql/model": "model",
            "text2sql/model-version": "2",
            "text2sql/sha256": "2" * 64,
            "text2sql/gate-verdict": "Gate passed: 1 rule kept",
            "text2sql/evaluated": "2026-01-01T00:00:00",
        }.items()
    )
    assert deployment["spec"]["template"]["metadata"]["labels"]["text2sql/release"] == "2-222222222222"
    selector = either.get("Service", "text2sql")["spec"]["selector"]
    assert selector.get("text2sql/release") == ("2-222222222222" if either.in_place else None)
    assert_clean(either)


def test_what_is_live_already_is_left_alone(either: Place):
    either.deploy("1")
    before = either.get("Deployment", "text2sql-server")["metadata"]["generation"]
    again = either.deploy("1")
    assert again.parity is None
    assert either.get("Deployment", "text2sql-server")["metadata"]["generation"] == before
    changed = either.deploy("1", label="changed")  # the same model, served in another way
    assert changed.parity is not None
    assert changed.status.previous is None


LOG = r".*gateway said: error: the"
BAD = {
    "crash": rf"container gateway of pod \S+ ended \d+ times .*exit code 1.*; event BackOff: {LOG}",
    "image": r"(ErrImagePull|ImagePullBackOff): .*registry.invalid/missing:1.*; event Failed",
    "pending": r"not ready within .*startup_seconds.*placed on no node: .*Insufficient example.com/none",
    "wrong": r"it answers 0 of 8 test rows as the evaluated model did",
}


@pytest.mark.parametrize("behaviour", BAD)
def test_whatever_goes_wrong_the_old_one_serves_on(either: Place, behaviour: str):
    either.deploy("1")
    before = either.get("Deployment", "text2sql-server")["spec"]["template"]
    if behaviour == "pending":
        either.seconds = 1.0 if either.stand_in else 30.0
    words = BAD[behaviour] if either.kubelet is None else BAD[behaviour].removesuffix(LOG)
    with pytest.raises(DeploymentError, match=rf"version 2 does not go live: .*{words}.*version 1 serves on$"):
        either.deploy("2", behaviour)
    assert either.version() == "1"
    assert either.get("Deployment", "text2sql-server")["spec"]["template"] == before
    assert remembered(either) == {"current": "1"}
    assert_clean(either)
    status = either.target().status()
    assert status.current is not None
    assert (status.current.state, status.current.why) == ("up", "")
    either.deploy("3")
    assert either.version() == "3"


@pytest.mark.parametrize("behaviour", ["crash", "wrong"])
def test_the_first_one_that_fails_leaves_nothing(either: Place, behaviour: str):
    with pytest.raises(DeploymentError, match="; nothing is served$"):
        either.deploy("1", behaviour)
    assert either.cluster().get("Deployment", "text2sql-server") is None
    assert either.target().status().current is None
    assert_clean(either)


def test_a_slow_load_is_waited_for(either: Place):
    either.deploy("1", "slow")
    assert either.version() == "1"


def test_clients_never_reach_a_model_that_was_not_checked(either: Place, stand_in: StandIn):
    """Asked all the time: the old version, nothing, or one that has answered its questions."""
    over, unexpected = threading.Event(), []

    def ask() -> None:
        while not over.wait(0.002):
            try:
                stand_in.ask("text2sql")
            except Exception as error:  # noqa: BLE001
                unexpected.append(str(error))

    either.deploy("1")
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with pytest.raises(DeploymentError):
            either.deploy("2", "wrong")
        heard = {*stand_in.heard}
        failed = len(unexpected)
        either.deploy("3")
    finally:
        over.set()
        asking.join()
    assert heard == {"1"}
    assert {*stand_in.heard} == {"1", "3"}
    assert either.in_place or not failed, "with several servers there is always one that answers"


def test_the_old_one_being_available_is_no_success(place: Place):
    """The check of the rollout itself: its new pod is Pending, and the old ones still answer."""
    place.deploy("1")
    target = place.target("pending")
    target._rollouts._seconds = 0.3 if place.stand_in else 10.0
    wanted = place.get("Deployment", "text2sql-server")
    pending, _ = place.manifests("pending")
    pending["metadata"]["namespace"] = place.namespace
    pending["spec"]["template"]["metadata"] = wanted["spec"]["template"]["metadata"]
    with pytest.raises(
        DeploymentError, match=r"1 of 2 servers started, 2 old, 2 available; pod \S+ is placed on no node"
    ):
        target._rollouts.roll(pending, place.tell)


def test_a_field_that_somebody_else_manages_is_not_taken_silently(either: Place):
    either.deploy("1")
    either.edit("text2sql-server", "kubectl-edit", {"spec": {"replicas": 3}})
    words = r'managed by somebody else too \(\.?spec\.replicas: conflict with "kubectl-edit".*take_over=true'
    with pytest.raises(DeploymentError, match=words):
        either.deploy("2")
    assert either.version() == "1"
    either.take_over = True
    either.deploy("2")
    assert either.version() == "2"


def test_back_and_forth(either: Place):
    with pytest.raises(DeploymentError, match="there is no version to go back to"):
        either.target().rollback(either.tell)
    either.deploy("1", label="one")
    either.deploy("2", label="two")
    assert either.target().rollback(either.tell).version == "1"
    assert either.version() == "1"
    assert remembered(either) == {"current": "1", "previous": "2"}
    template = either.get("Deployment", "text2sql-server")["spec"]["template"]
    assert template["metadata"]["labels"]["test"] == "one", "it comes back as it was, whatever the overlay says by now"
    assert either.target().rollback(either.tell).version == "2"
    assert either.version() == "2"
    assert_clean(either)


def test_row_30_a_broken_stable_version_neither_holds_back_nor_forward(either: Place, stand_in: StandIn):
    either.deploy("1")
    either.deploy("2")
    stand_in.plane.broken.add("2")
    status = either.target().status()
    assert status.current is not None
    assert (status.current.state, status.current.restarts > 0) == ("down", True)
    either.deploy("3")
    assert either.version() == "3"
    stand_in.plane.broken.add("3")
    with pytest.raises(DeploymentError, match="ended .* times"):
        either.target().rollback(either.tell)
    stand_in.plane.broken.remove("2")
    either.target().rollback(either.tell)
    assert either.version() == "2"


def test_a_rollback_that_fails_leaves_the_current_one(either: Place, stand_in: StandIn):
    either.deploy("1", image="server:1")
    either.deploy("2", image="server:2")
    kept = stand_in.objects[("ConfigMap", RELEASES)]["data"]
    kept["previous.json"] = kept["previous.json"].replace("server:1", "registry.invalid/missing:1")
    with pytest.raises(DeploymentError, match="ImagePull"):
        either.target().rollback(either.tell)
    assert either.version() == "2"
    assert remembered(either) == {"current": "2", "previous": "1"}


def test_a_rollback_that_cannot_be_undone_says_both(place: Place, stand_in: StandIn):
    place.deploy("1", image="server:1")
    place.deploy("2", image="server:2")
    kept = stand_in.objects[("ConfigMap", RELEASES)]["data"]
    kept["previous.json"] = kept["previous.json"].replace("server:1", "registry.invalid/missing:1")

    def refuse(line: str) -> None:
        if "event of" in line:  # the rollout has failed, and is told of
            stand_in.faults.append(Fault("PATCH", "deployments", 403, message="not any more"))

    place.hook = refuse
    with pytest.raises(DeploymentError, match=r"ImagePull.*could not be brought back: no permission.*not any more"):
        place.target().rollback(place.tell)


def test_the_end_and_a_new_beginning(either: Place):
    either.target().stop(either.tell)
    assert either.told[-1] == "nothing runs"
    either.deploy("1")
    either.target().stop(either.tell)
    assert either.cluster().get("Deployment", "text2sql-server") is None
    assert either.cluster().list("Pod") == [], "nothing is left running"
    status = either.target().status()
    assert status.current is not None
    assert status.current.state == "stopped"
    assert_clean(either)
    either.deploy("1")
    assert either.version() == "1"
    either.deploy("2")
    either.target().stop(either.tell)
    either.target().rollback(either.tell)
    assert either.version() == "1"


def test_a_deployment_that_was_killed_is_told_of_and_the_next_one_mends_it(place: Place):
    place.in_place = True
    place.deploy("1")
    target = place.target()
    with target.alone():
        target.stage(release("2"), Path(), place.tell)  # and then no more
    status = place.target().status()
    assert status.current is not None
    assert (status.current.state, status.current.release.version) == ("down", "1")
    assert "cut off" in status.current.why
    place.deploy("2")
    assert place.version() == "2"
    assert remembered(place) == {"current": "2", "previous": "1"}


@pytest.mark.parametrize("before", [("1",), ("1", "2")])
def test_a_rollback_undoes_a_deployment_that_was_killed(either: Place, before: tuple[str, ...]):
    for version in before:
        either.deploy(version)
    was = remembered(either)
    target = either.target()
    with target.alone():
        target.stage(release("3"), Path(), either.tell)
        if not either.in_place:
            target._cluster.delete("Deployment", CANDIDATE)
            target._rollouts.roll(target._wanted.server, either.tell)  # `promote`, up to where it is killed
    assert either.target().rollback(either.tell).version == before[-1]
    assert either.version() == before[-1]
    assert remembered(either) == was, "nothing that could be gone back to is lost"
    assert_clean(either)


def test_a_rollback_that_was_killed_goes_on(either: Place):
    either.deploy("1")
    either.deploy("2")
    target = either.target()
    with target.alone():
        target._rollouts.roll(target._releases()[1].server, either.tell)  # and then no more
    assert either.target().rollback(either.tell).version == "1"
    assert remembered(either) == {"current": "1", "previous": "2"}


@pytest.mark.parametrize("then", ["rollback", "deploy"])
def test_a_candidate_whose_deployment_was_killed_holds_no_gpu(place: Place, then: str):
    place.deploy("1")
    place.deploy("2")
    target = place.target()
    with target.alone():
        target.stage(release("3"), Path(), place.tell)
    left: list[bool] = []
    place.hook = lambda _: left.append(place.cluster().get("Deployment", CANDIDATE) is not None)
    if then == "rollback":
        assert place.target().rollback(place.tell).version == "1"
    else:
        place.deploy("2")
    assert left[-1:] == [False], "a rollout with one GPU to spare needs it"
    assert_clean(place)


def test_keys_travel_past_the_api_server(either: Place, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch):
    stand_in.key = "t2s_key"
    with pytest.raises(DeploymentError, match="401: give an API key"):
        either.deploy("1")
    monkeypatch.setenv("OPENAI_API_KEY", "t2s_key")
    either.deploy("1")
    assert either.version() == "1"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "evicted"])
def test_a_signal_leaves_the_old_one(either: Place, number: int, request: pytest.FixtureRequest):
    ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's jobs in the background ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, ctrl_c))
    either.deploy("1")
    before = signal.getsignal(signal.SIGTERM)

    def interrupt(line: str) -> None:
        if "comparing" in line:
            os.kill(os.getpid(), number)

    either.hook = interrupt
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        either.deploy("2")
    assert either.version() == "1"
    assert signal.getsignal(signal.SIGTERM) is before
    assert_clean(either)


def test_who_has_lost_the_lease_leaves_all_to_the_one_that_has_it(either: Place, stand_in: StandIn):
    either.deploy("1")

    def lose(line: str) -> None:
        if "comparing" in line:
            stand_in.edit("Lease", "text2sql-deploy", "other", {"spec": {"holderIdentity": "other"}})
            stand_in.requests.clear()

    either.hook = lose
    with pytest.raises(DeploymentError, match="another deployment has taken over"):
        either.deploy("2")
    assert {method for method, path in stand_in.requests if "/proxy/" not in path} == {"GET"}
    assert either.get("Lease", "text2sql-deploy")["spec"]["holderIdentity"] == "other"


def test_a_release_that_broke_is_mended_by_serving_it_in_another_way(either: Place, stand_in: StandIn):
    """Its old pods carry the same release, and what ails them is no verdict on the new ones."""
    either.deploy("1")
    for pod in stand_in.plane.pods:
        pod.broken = {"1"}
        pod.born -= 1.0  # crashed many times by now
    either.deploy("1", label="more-memory")
    assert either.version() == "1"


def test_a_node_that_gives_out_no_log_holds_nobody_up(place: Place, stand_in: StandIn):
    stand_in.faults.append(Fault("GET", "/log", 500))
    with pytest.raises(DeploymentError, match=r"ended \d+ times .*event BackOff: [^;]*; nothing is served$"):
        place.deploy("1", "crash")
    assert sum("/log" in path for _, path in stand_in.requests) <= 2, "once a pod"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            Fault("PATCH", "deployments", 403, message="deployments.apps is forbidden"),
            "no permission to patch Deployment .*Role text2sql-deploy",
        ),
        (
            Fault("PATCH", "deployments", 403, message="pods is forbidden: exceeded quota: text2sql"),
            "raise ResourceQuota",
        ),
        (
            Fault("PATCH", "deployments", 422, message="spec.x: Invalid value"),
            r"cannot be as .*manifests says \(spec.x",
        ),
        (Fault("PATCH", "services", 401, message="Unauthorized"), "renew the credentials"),
        (Fault("*", "deployments", 500), r"does not answer in 1 s \(500 scripted\)"),
        (Fault("PATCH", "deployments", 0), "does not answer in 1 s .ProtocolError"),
    ],
    ids=["403", "quota", "422", "401", "500", "dropped"],
)
def test_a_refusal_is_one_line_with_a_remedy(place: Place, stand_in: StandIn, fault: Fault, words: str):
    stand_in.faults.append(fault)
    with pytest.raises(DeploymentError, match=words) as caught:
        place.deploy("1")
    assert "\n" not in str(caught.value)


def test_a_field_that_no_deployment_has_is_told_at_once(place: Place):
    """API servers say 500 to it, which is otherwise asked again for a minute."""
    target = place.target()
    target._base.deployment["spec"]["nonsense"] = 1
    words = (
        r"Deployment text2sql-candidate .*cannot be as deploy.kubernetes.manifests says \(failed to create typed patch "
        r"object.*: \.spec\.nonsense: field not declared in schema\); correct that there, .*; nothing is served$"
    )
    with pytest.raises(DeploymentError, match=words):
        deploy(target, release("1"), Path(), QUESTIONS, Limits(0.9, 30.0), place.tell)
    assert_clean(place)
    if place.stand_in is not None:
        assert len([1 for method, path in place.stand_in.requests if method == "PATCH" and "deployments" in path]) == 1


def test_a_namespace_that_is_not_there_is_named(place: Place, stand_in: StandIn):
    place.namespace = "nowhere"
    with pytest.raises(DeploymentError, match="namespace nowhere.*an administrator makes the namespace"):
        place.deploy("1")


def test_a_strategy_cannot_be_changed_in_place(place: Place):
    place.plain = True
    place.deploy("1")
    place.plain, place.in_place = False, True
    with pytest.raises(
        DeploymentError, match="rollingUpdate: Forbidden.*made anew after --pipeline stop.*version 1 serves on"
    ):
        place.deploy("2")
    place.target().stop(place.tell)
    heard: list[str | None] = []
    place.hook = lambda line: heard.append(place.version()) if "comparing" in line else None
    place.deploy("2")
    assert heard == [None], "the Service of several servers takes every release, and must not until this one is checked"
    assert place.version() == "2"


@pytest.mark.parametrize(
    ("status", "after"),
    [(0, False), (0, True), (429, False), (503, False)],
    ids=["dropped", "answer-lost", "429", "503"],
)
def test_a_passing_fault_is_waited_out(either: Place, stand_in: StandIn, status: int, after: bool):
    """Also where the request was worked on, and only its answer was lost."""
    stand_in.faults = [Fault(method, ".", status, 1, after) for method in ("POST", "GET", "PATCH", "PUT", "DELETE")]
    either.deploy("1")
    either.deploy("2")
    assert either.version() == "2"
    assert_clean(either)
