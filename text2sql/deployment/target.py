"""The one way in which a model goes live, wherever it serves: beside what serves, checked, and then in its place.

    stage → smoke questions → parity → promote → verify → settle

Whatever fails before `promote` leaves what serves untouched; what fails after it puts that back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from text2sql.deployment.checks import Asker, Parity, Question, Tell
from text2sql.deployment.release import Release
from text2sql.errors import DeploymentError, Text2SQLError
from text2sql.serving.connection import VERSION_HEADER

VERIFY_SECONDS = 30.0
"""Clients wait for the same server by then."""


@dataclass(frozen=True)
class Serving:
    """A release on a target."""

    release: Release
    state: str
    """up, starting, down, failed or stopped."""
    since: str
    """ISO 8601 time, UTC, at which it went live."""
    engine: str = ""
    why: str = ""
    """Why it is not up."""
    restarts: int = 0


@dataclass(frozen=True)
class Status:
    """What serves where."""

    target: str
    address: str
    current: Serving | None = None
    previous: Serving | None = None
    detail: str = ""
    """What else an operator should know."""
    settled: bool = True
    """Whether `current` was verified; a deployment is under way, or has died, where it was not."""


class Target(Protocol):
    """Where releases serve. Every method returns within bounded time, and raises DeploymentError."""

    @property
    def address(self) -> str:
        """The stable one: clients never need another."""

    @property
    def entrance(self) -> str:
        """The same as it is reached from here."""

    def alone(self) -> AbstractContextManager[object]:
        """While it is held nobody else changes anything here."""

    def status(self) -> Status:
        """Changes nothing; also where nothing serves."""

    def recover(self, tell: Tell) -> None:
        """Start again what was live and ended without being told to, such as by a reboot; nothing where it runs."""

    def serves(self, release: Release) -> bool:
        """Whether it is live already, well, and as the settings want it."""

    def stage(self, release: Release, folder: Path, tell: Tell) -> str:
        """Start it beside what serves, from a copy of the folder; the address at which only we can ask it, once it is
        ready. What fails here is cleared away by `discard`."""

    def promote(self) -> None:
        """Point the stable address at what was staged. No request is lost; the old one stays as it is."""

    def discard(self) -> None:
        """End what was staged, if anything was."""

    def restore(self) -> None:
        """After `promote`: put the old one back, and end the new one."""

    def settle(self) -> None:
        """The old one is no longer needed as it is: keep of it what a rollback needs."""

    def rollback(self, tell: Tell) -> Release:
        """Put the previous release in the place of the current one, whatever state that is in; what serves then."""

    def stop(self, tell: Tell) -> None:
        """End everything; nothing is left running."""


@dataclass(frozen=True)
class Limits:
    """What a release must show."""

    min_agreement: float
    check_seconds: float


@dataclass(frozen=True)
class Deployed:
    """A release that is live."""

    release: Release
    status: Status
    parity: Parity | None
    """None where it was live before, and nothing was done."""


def deploy(
    target: Target, release: Release, folder: Path, questions: Sequence[Question], limits: Limits, tell: Tell
) -> Deployed:
    """Take a release live.

    Raises:
        DeploymentError: it does not go live, with the reason; what served before serves on.
    """
    with target.alone():
        target.recover(tell)
        if target.serves(release):
            tell(f"{release.title} serves at {target.address} already")
            return Deployed(release, target.status(), None)
        try:
            staged = target.stage(release, folder, tell)
            tell("asking smoke questions")
            with Asker(staged, limits.check_seconds) as asker:
                asker.smoke(questions)
                tell(f"comparing its answers to {len(questions)} test rows with those of the evaluated model")
                parity = asker.compare(questions)
            _check(parity, limits)
            tell(f"{parity.same} of {parity.asked - parity.skipped} answers are the same")
        except BaseException as error:
            _undo(target, target.discard, release, error)
            raise
        try:
            target.promote()
            tell(f"{target.address} answers with it now; making sure")
            _verify(target, release, questions, limits)
        except BaseException as error:
            _undo(target, target.restore, release, error)
            raise
        try:
            target.settle()
        except DeploymentError as error:
            tell(f"it is live, and the old server could not be put to rest: {error}")
        return Deployed(release, target.status(), parity)


def _check(parity: Parity, limits: Limits) -> None:
    compared = parity.asked - parity.skipped
    if not compared:
        # whatever deploy.min_agreement is: nothing speaks for it
        raise DeploymentError(
            f"none of its answers to {parity.asked} test rows could be compared with those of the evaluated model; "
            "raise deploy.parity_rows, or judge it again on rows that its server takes (--pipeline evaluate)"
        )
    if parity.agreement < limits.min_agreement:
        raise DeploymentError(
            f"it answers {parity.same} of {compared} test rows as the evaluated model did, and deploy.min_agreement is "
            f"{limits.min_agreement:g}{f': {parity.example}' if parity.example else ''}"
        )


def _verify(target: Target, release: Release, questions: Sequence[Question], limits: Limits) -> None:
    """Through the stable address, as clients come."""
    with Asker(target.entrance, min(limits.check_seconds, VERIFY_SECONDS), patient=False) as asker:
        reply = asker.smoke(questions)
    if (told := reply.headers.get(VERSION_HEADER)) != release.version:
        raise DeploymentError(f"{target.address} answers with version {told or 'unknown'}")


def _undo(target: Target, undo: Callable[[], None], release: Release, error: BaseException) -> None:
    """Put everything back, and tell of the error what still serves. Raises it anew where it is the user's."""
    try:
        undo()
    except Text2SQLError as more:
        raise DeploymentError(
            f"{release.title} does not go live: {error}. What was begun could not be ended: {more}"
        ) from error
    if isinstance(error, Text2SQLError):
        current = target.status().current
        rest = "nothing is served"
        if current is not None and current.state != "stopped":
            rest = f"version {current.release.version} serves on"
        raise DeploymentError(f"{release.title} does not go live: {error}; {rest}") from error
