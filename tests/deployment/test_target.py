"""The flow that every target goes through, over one that keeps its state and misbehaves on demand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.deployment.stand_in import QUESTIONS, StandIn, release, right
from text2sql.deployment.target import Limits, deploy
from text2sql.errors import DeploymentError

LIMITS = Limits(min_agreement=0.9, check_seconds=20.0)


@pytest.fixture
def target() -> Iterator[StandIn]:
    """With version 1 live."""
    made = StandIn()
    deploy(made, release("1"), Path(), QUESTIONS, LIMITS, lambda _: None)
    yield made
    made.stop(lambda _: None)


def take_live(target: StandIn, **server: Any) -> list[str]:
    target.next_server = server
    told: list[str] = []
    deploy(target, release("2"), Path(), QUESTIONS, LIMITS, told.append)
    return told


def test_a_good_one_takes_over_and_the_old_one_is_kept_in_mind(target: StandIn):
    told = take_live(target)
    assert "10 of 10 answers are the same" in told
    assert target.current is not None
    assert target.previous is not None
    assert (target.current.version, target.previous.version) == ("2", "1")
    assert target.alive == [target.current]


def test_what_is_live_already_is_left_alone(target: StandIn):
    deployed = deploy(target, release("1"), Path(), QUESTIONS, LIMITS, lambda _: None)
    assert deployed.parity is None
    assert len(target.alive) == 1


@pytest.mark.parametrize(
    ("faults", "server", "words"),
    [
        ({"stage": "the image cannot be pulled"}, {}, "the image cannot be pulled"),
        ({"ready": "it was not ready within 600 s"}, {}, "not ready within"),
        ({}, {"answers": {}}, "does not answer a question .500: no such question"),
        ({}, {"dies_after": 1}, "breaks off the connection"),
        ({}, {"dies_after": 5}, "breaks off the connection"),
        ({}, {"answers": right() | {"question 0": "SELECT 0", "question 1": "no"}}, "8 of 10 .* 'SELECT 0' where"),
        ({}, {"valid": False}, "it calls 'SELECT 0 FROM t' invalid, its answer to 'question 0'"),
        ({}, {"refuses": ("question 0",)}, "does not answer a question .422: no such table"),
        ({}, {"refuses": ("question 7", "question 8")}, "8 of 10 .* refused .422: no such table. where it was"),
        ({"promote": "the address cannot be moved"}, {}, "cannot be moved"),
        ({}, {"dies_after": 13}, "breaks off"),
    ],
    ids=[
        "start",
        "slow",
        "500",
        "dies-at-smoke",
        "dies-at-parity",
        "answers-otherwise",
        "calls-it-invalid",
        "refuses-at-smoke",
        "refuses-at-parity",
        "promote",
        "dies-when-live",
    ],
)
def test_whatever_goes_wrong_the_old_one_serves_on(
    target: StandIn, faults: dict[str, str], server: dict[str, Any], words: str
):
    before = target.current
    target.faults = faults
    with pytest.raises(DeploymentError, match=rf"version 2 does not go live: .*{words}.*; version 1 serves on$"):
        take_live(target, **server)
    assert target.current is before
    assert target.alive == [before]
    target.faults = {}
    take_live(target)


def test_the_first_one_that_fails_leaves_nothing():
    target = StandIn(faults={"ready": "it died"})
    with pytest.raises(DeploymentError, match="it died; nothing is served"):
        take_live(target)
    assert not target.alive


def test_an_old_one_that_refuses_to_end_does_not_take_the_new_one_down(target: StandIn):
    target.faults = {"end": "it does not end"}
    assert any("could not be put to rest: it does not end" in line for line in take_live(target))
    assert target.current is not None
    assert target.current.version == "2"


def test_a_new_one_that_refuses_to_end_is_told_of_with_the_reason(target: StandIn):
    target.faults = {"end": "it does not end"}
    with pytest.raises(DeploymentError, match="500.*What was begun could not be ended: it does not end"):
        take_live(target, answers={})
    assert target.current is not None
    assert target.current.version == "1"


def test_a_small_difference_in_writing_is_none(target: StandIn):
    take_live(target, answers={name: sql.lower().replace(" from", "  FROM") for name, sql in right().items()})
    assert target.current is not None
    assert target.current.version == "2"


def test_a_row_that_nobody_answered_validly_may_be_refused(target: StandIn):
    target.next_server = {"refuses": ("question 3", "question 4")}
    questions = [replace(question, valid=i not in (3, 4)) for i, question in enumerate(QUESTIONS)]
    told: list[str] = []
    deployed = deploy(target, release("2"), Path(), questions, LIMITS, told.append)
    assert "8 of 8 answers are the same" in told
    assert deployed.parity is not None
    assert deployed.parity.skipped == 2


@pytest.mark.parametrize("rows", [0, 10], ids=["no-rows", "all-refused"])
def test_one_that_nothing_speaks_for_does_not_go_live(target: StandIn, rows: int):
    """Not even where no agreement is asked for."""
    questions = [replace(question, valid=False) for question in QUESTIONS[:rows]]
    target.next_server = {"refuses": tuple(right())}
    with pytest.raises(DeploymentError, match=f"none of its answers to {rows} test rows could be compared"):
        deploy(target, release("2"), Path(), questions, replace(LIMITS, min_agreement=0.0), lambda _: None)
    assert target.current is not None
    assert target.current.version == "1"


def test_ctrl_c_leaves_the_old_one_too(target: StandIn):
    def interrupt(line: str) -> None:
        if "comparing" in line:
            raise KeyboardInterrupt

    target.next_server = {}
    with pytest.raises(KeyboardInterrupt):
        deploy(target, release("2"), Path(), QUESTIONS, LIMITS, interrupt)
    assert target.current is not None
    assert target.current.version == "1"
    assert target.alive == [target.current]
