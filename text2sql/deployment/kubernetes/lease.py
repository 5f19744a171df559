"""One deployment at a time in a namespace: a Lease that whoever deploys holds, and renews while it lives."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from text2sql.deployment.kubernetes.api import Cluster, Manifest
from text2sql.errors import DeploymentError

NAME = "text2sql-deploy"
SECONDS = 60
"""Without a sign of life for so long, its holder is dead."""
TRIES = 3
TAKEN = "another deployment has taken over, or removed our Lease text2sql-deploy"


@contextmanager
def held(cluster: Cluster, seconds: int = SECONDS) -> Iterator[Lease]:
    """Alone in this namespace, until the block ends or this process dies.

    Raises:
        DeploymentError: somebody else is.
    """
    lease = Lease(cluster, seconds)
    lease.take()
    try:
        yield lease
    finally:
        lease.release()


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """A pod that is evicted undoes what it began, as after Ctrl-C: the first SIGTERM is an exception, the next ones are
    not heard. Python has handlers in the main thread alone."""

    def leave(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Lease:
    """What `held` gives: `check` raises when it was lost."""

    def __init__(self, cluster: Cluster, seconds: int) -> None:
        self._cluster, self._seconds = cluster, seconds
        self._identity = f"{socket.gethostname()} process {os.getpid()} {secrets.token_hex(4)}"
        self._over = threading.Event()
        self._lost = ""
        self._renewing = threading.Thread(target=self._renew, name="lease", daemon=True)

    def take(self) -> None:
        for _ in range(TRIES):
            if self._cluster.create(self._manifest()):
                break
            found = self._cluster.get("Lease", NAME)
            if found is None:  # gone between two questions
                continue
            if self._is_mine(found):  # made, and only the answer was lost
                break
            if not self._is_dead(found):
                raise DeploymentError(
                    f"another deployment is under way in namespace {self._cluster.namespace} "
                    f"({found['spec'].get('holderIdentity')}); wait for its end, and try again"
                )
            self._write(found)
        else:
            raise DeploymentError("another deployment begins at this moment; wait for its end, and try again")
        self._renewing.start()

    def check(self) -> None:
        """Raises:
        DeploymentError: another holds it now, or it could not be renewed.
        """
        if self._lost or self.is_anothers():
            raise DeploymentError(self._lost or TAKEN)

    def is_anothers(self) -> bool:
        """Whether somebody else holds it, and lives."""
        found = self._cluster.get("Lease", NAME)
        return found is not None and not self._is_mine(found) and not self._is_dead(found)

    def release(self) -> None:
        self._over.set()
        self._renewing.join()
        found = self._cluster.get("Lease", NAME)
        if found is not None and self._is_mine(found):
            self._cluster.delete("Lease", NAME)

    def _renew(self) -> None:
        while not self._over.wait(self._seconds / 4):
            try:
                found = self._cluster.get("Lease", NAME)
                if found is None or not self._is_mine(found):
                    self._lost = TAKEN
                    return
                self._write(found)
            except DeploymentError as error:
                self._lost = f"the Lease of this deployment could not be renewed: {error}"
                return

    def _write(self, found: Manifest) -> None:
        """As ours, unless it has changed since it was read; what became of it shows when it is read again. By its uid,
        for without that a PUT makes a Lease anew that has gone meanwhile."""
        manifest = self._manifest()
        manifest["metadata"] |= {name: found["metadata"][name] for name in ("uid", "resourceVersion")}
        self._cluster.replace(manifest)

    def _manifest(self) -> Manifest:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": NAME, "namespace": self._cluster.namespace},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": self._seconds,
                "acquireTime": now,
                "renewTime": now,
            },
        }

    def _is_mine(self, found: Manifest) -> bool:
        return bool(found["spec"].get("holderIdentity") == self._identity)

    @staticmethod
    def _is_dead(found: Manifest) -> bool:
        spec = found["spec"]
        renewed = datetime.fromisoformat(str(spec.get("renewTime") or "1970-01-01T00:00:00Z"))
        return datetime.now(UTC) - renewed > timedelta(seconds=int(spec.get("leaseDurationSeconds") or SECONDS))
