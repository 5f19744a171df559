"""A cluster as a target: one Deployment of servers behind one Service, changed by server-side apply.

With several GPUs a release is tried on one more server (text2sql-candidate) that no client reaches, and the servers
are then exchanged one at a time. With one GPU it takes the old server's place, hidden from clients until it has
answered its questions: the Service selects the release by name. Which release is current, and which was before it,
with everything that brings them back exactly, lies in the ConfigMap text2sql-releases.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from text2sql.config import DeploySection
from text2sql.deployment import artifacts
from text2sql.deployment.checks import Tell
from text2sql.deployment.kubernetes import manifests
from text2sql.deployment.kubernetes.api import Cluster, Manifest
from text2sql.deployment.kubernetes.lease import Lease, held, sigterm_raises
from text2sql.deployment.kubernetes.manifests import CANDIDATE, COMPONENT, RELEASE, Rendered, Served, Source
from text2sql.deployment.kubernetes.needs import check_needs
from text2sql.deployment.kubernetes.reach import Reach
from text2sql.deployment.kubernetes.rollout import containers, troubles, unfinished
from text2sql.deployment.kubernetes.waiting import Pace, Rollouts
from text2sql.deployment.release import Release
from text2sql.deployment.target import Serving, Status
from text2sql.errors import DeploymentError

GONE_SECONDS = 180.0
"""Beyond a pod's own grace period."""


@dataclass(frozen=True)
class StoredModel:
    """Where the model that is deployed lies in ZenML's artifact store."""

    source: str
    adapter: Source | None = None
    load_adapter: Callable[[], Path] | None = None
    """Brings it to this machine; its folder."""


class KubernetesTarget:
    """Where `deploy` of a config serves, with deploy.target: kubernetes.

    Args:
        stored: where the model lies; for `status`, `rollback` and `stop` it is not needed.
        cluster: instead of the one that the settings name.
    """

    def __init__(
        self,
        section: DeploySection,
        stored: StoredModel | None = None,
        cluster: Cluster | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._section, self._stored, self._pace = section, stored, pace or Pace()
        self._settings = section.kubernetes
        self._cluster = cluster or Cluster.connect(self._settings.namespace, self._settings.context)
        self._rollouts = Rollouts(self._cluster, self._pace, section.startup_seconds, self._settings.take_over)
        self._rendered: Rendered | None = None
        self._lease: Lease | None = None
        self._wanted: Served | None = None
        self._before: tuple[Served | None, Served | None] = (None, None)
        self._reach = Reach(self._cluster, self._settings, self._pace)

    @property
    def address(self) -> str:
        """As Target."""
        return self._settings.address or self._reach.name_of(self._base.name, self._base.port)

    @property
    def entrance(self) -> str:
        """As Target."""
        return self._reach.address_of(self._base.name, self._base.port)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """As Target."""
        with held(self._cluster) as lease, sigterm_raises():
            self._lease = lease
            try:
                yield
            finally:
                self._lease = None
                self._reach.close()

    def _check(self) -> None:
        """Raises:
        DeploymentError: the lease was lost.
        """
        if self._lease is not None:
            self._lease.check()

    def status(self) -> Status:
        """As Target."""
        current, previous = self._releases()
        if current is None:
            return Status("kubernetes", self.address, detail=self._where)
        deployment = self._cluster.get("Deployment", self._base.server)
        kept = previous and Serving(previous.release, "stopped", previous.since, previous.engine)
        return Status("kubernetes", self.address, self._serving(current, deployment), kept or None, self._where)

    def recover(self, tell: Tell) -> None:  # noqa: ARG002 - the protocol's
        """As Target: the cluster does it. What a deployment that has died left on trial holds a GPU, and ends."""
        self._clear_candidate()

    def serves(self, release: Release) -> bool:
        """As Target."""
        current, _ = self._releases()
        deployment = self._cluster.get("Deployment", self._base.server)
        if current is None or deployment is None or unfinished(deployment) or not _runs(deployment, current):
            return False
        return current.release.is_same_as(release) and current.serves_like(self._served(release, current.source))

    def stage(self, release: Release, folder: Path, tell: Tell) -> str:
        """As Target."""
        for note in check_needs(self._cluster, self._base, self._settings.nodes == "fixed", self._reach.is_by_proxy):
            tell(note)
        self._before = self._releases()
        wanted = self._served(release, self._source(release, folder, tell))
        self._apply(manifests.candidate_service(self._base, release))
        self._wanted = wanted
        if self._base.in_place:
            if current := self._before[0]:  # the Service of several servers takes every release
                self._apply(manifests.service(self._base, current.release))
            tell(f"{self._base.server} ends, and starts with {release.title} in its place")
            self._rollouts.roll(wanted.server, tell, self._check)
        else:
            tell(f"starting {release.title} beside what serves, as {CANDIDATE}")
            self._rollouts.roll(manifests.candidate(wanted), tell, self._check)
        return self._answers(CANDIDATE, release)

    def promote(self) -> None:
        """As Target."""
        assert self._wanted is not None  # noqa: S101 - for the type checker: after `stage`
        self._check()
        wanted = replace(self._wanted, since=datetime.now(UTC).isoformat(timespec="seconds"))
        if not self._base.in_place:
            self._cluster.delete("Deployment", CANDIDATE)  # its GPU is the first new server's
            self._rollouts.roll(wanted.server, lambda _: None, self._check)
        current, previous = self._before
        again = current is not None and current.label == wanted.label
        self._remember(wanted, previous if again else current)
        self._apply(wanted.service)
        self._answers(self._base.name, wanted.release)

    def discard(self) -> None:
        """As Target."""
        if self._wanted is None:
            return
        self._undo(again=self._base.in_place)

    def restore(self) -> None:
        """As Target."""
        self._undo(again=True)

    def settle(self) -> None:
        """As Target."""
        self._clear_candidate()
        self._wanted = None

    def rollback(self, tell: Tell) -> Release:
        """As Target. Nothing is asked of what serves now; the previous server comes back as it was applied."""
        with self.alone():
            current, previous = self._before = self._releases()
            self._clear_candidate()  # the GPU that it may hold is the first new server's
            if current is not None and self._is_cut_off(current, previous):
                tell(f"the last deployment has died half-way; bringing {current.release.title} back")
                self._bring_back()
                self._answers(self._base.name, current.release)
                return current.release
            if previous is None:
                raise DeploymentError(f"there is no version to go back to in namespace {self._cluster.namespace}")
            try:
                tell(f"bringing {previous.release.title} back")
                self._rollouts.roll(previous.server, tell, self._check)
                self._remember(replace(previous, since=datetime.now(UTC).isoformat(timespec="seconds")), current)
                self._apply(previous.service)
                self._answers(self._base.name, previous.release)
            except BaseException as error:
                try:
                    self._undo(again=True)
                except DeploymentError as more:
                    raise DeploymentError(f"{error}. The current version could not be brought back: {more}") from error
                raise
            return previous.release

    def _is_cut_off(self, current: Served, previous: Served | None) -> bool:
        """Whether a deployment has died that had begun to exchange the servers. A rollback that has died is not undone,
        but goes on."""
        deployment = self._cluster.get("Deployment", self._base.server)
        known = [served for served in (current, previous) if served is not None]
        return deployment is not None and not any(_runs(deployment, served) for served in known)

    def stop(self, tell: Tell) -> None:
        """As Target. What is remembered stays, so that `deploy` and `rollback` start it again."""
        with self.alone():
            if not self._all_pods() and self._cluster.get("Deployment", self._base.server) is None:
                tell("nothing runs")
                return
            self._clear_candidate()
            self._cluster.delete("Deployment", self._base.server)
            grace = self._base.deployment["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 30)
            deadline = time.monotonic() + grace + GONE_SECONDS
            while pods := self._all_pods():
                if time.monotonic() > deadline:
                    raise DeploymentError(
                        f"pods {', '.join(pods)} do not end; see kubectl -n {self._cluster.namespace} describe pods"
                    )
                time.sleep(self._pace.poll)
            tell("stopped")

    def _all_pods(self) -> list[str]:
        """Names, those that are ending included."""
        chosen = self._base.deployment["spec"]["selector"]["matchLabels"]
        selectors = (chosen, chosen | {COMPONENT: "candidate"})
        return [
            str(pod["metadata"]["name"])
            for labels in selectors
            for pod in self._cluster.list(
                "Pod", labelSelector=",".join(f"{key}={value}" for key, value in labels.items())
            )
        ]

    @property
    def _base(self) -> Rendered:
        if self._rendered is None:
            documents = manifests.render(self._settings.manifests)
            self._rendered = manifests.rendered(documents, self._cluster.namespace)
        return self._rendered

    @property
    def _where(self) -> str:
        return f"namespace {self._cluster.namespace} of {self._cluster.server}"

    def _served(self, release: Release, source: str) -> Served:
        deployment = manifests.server(self._base, release, source, self._adapter)
        return Served(release, source, deployment, manifests.service(self._base, release))

    @property
    def _adapter(self) -> Source | None:
        """Where pods fetch it: beside the models, where deploy.kubernetes.store keeps what is live."""
        found = self._stored.adapter if self._stored else None
        if found is None or not self._settings.store:
            return found
        return Source(artifacts.address_in(self._settings.store, found.digest), found.digest)

    def _source(self, release: Release, folder: Path, tell: Tell) -> str:
        """Where pods fetch the model."""
        if self._settings.store:
            tell(f"storing {release.title} in {self._settings.store}")
            stored = self._stored
            if self._base.serves_adapters and stored is not None and stored.adapter and stored.load_adapter:
                artifacts.store(stored.load_adapter(), stored.adapter.digest, self._settings.store)
            return artifacts.store(folder, release.digest, self._settings.store)
        source = self._stored.source if self._stored else ""
        if "://" not in source:
            raise DeploymentError(
                f"no pod can fetch {release.title} from {source or 'nowhere'}; name an object store with "
                "--set deploy.kubernetes.store=s3://bucket/models, or train on a stack that has one"
            )
        return source

    def _apply(self, manifest: Manifest) -> Manifest:
        return self._cluster.apply(manifest, self._settings.take_over)

    def _answers(self, service: str, release: Release) -> str:
        return self._reach.answers(service, self._base.port, release)

    def _clear_candidate(self) -> None:
        self._cluster.delete("Deployment", CANDIDATE)
        self._cluster.delete("Service", CANDIDATE)

    def _undo(self, again: bool) -> None:
        """The candidate ends, and with `again` what was current comes back. Where another deployment holds the lease
        by now, all of that is its own."""
        self._wanted = None
        if self._lease is not None and self._lease.is_anothers():
            return
        self._clear_candidate()
        if again:
            self._bring_back()

    def _bring_back(self) -> None:
        """What was current, as it was; where there was nothing, nothing."""
        current, previous = self._before
        self._remember(current, previous)
        if current is None:
            self._cluster.delete("Deployment", self._base.server)
            return
        self._rollouts.roll(current.server, lambda _: None)
        self._apply(current.service)

    def _releases(self) -> tuple[Served | None, Served | None]:
        kept = (self._cluster.get("ConfigMap", manifests.RELEASES) or {}).get("data") or {}
        try:
            current, previous = (
                Served.from_json(kept[name]) if name in kept else None for name in ("current.json", "previous.json")
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DeploymentError(
                f"ConfigMap {manifests.RELEASES} in namespace {self._cluster.namespace} is damaged "
                f"({type(error).__name__}); delete it, and deploy again"
            ) from None
        return current, previous

    def _remember(self, current: Served | None, previous: Served | None) -> None:
        self._apply(manifests.releases(self._cluster.namespace, current, previous))

    def _serving(self, current: Served, deployment: Manifest | None) -> Serving:
        if deployment is None:
            return Serving(current.release, "stopped", current.since, current.engine)
        if not _runs(deployment, current):
            why = "a deployment was cut off while it ran; deploy again, or --rollback"
            return Serving(current.release, "down", current.since, current.engine, why)
        missing = unfinished(deployment)
        pods = self._rollouts.pods(current.server)
        wrong = [trouble.words for trouble in troubles(deployment, pods)]
        available = int((deployment.get("status") or {}).get("availableReplicas") or 0)
        state = "up" if available else "down" if wrong else "starting"
        restarts = sum(int(container.get("restartCount") or 0) for pod in pods for container in containers(pod))
        why = "; ".join([missing, *wrong]) if missing else ""
        return Serving(current.release, state, current.since, current.engine, why, restarts)


def _runs(deployment: Manifest, served: Served) -> bool:
    """Whether it is this release that the Deployment asks for."""
    return bool(deployment["spec"]["template"]["metadata"]["labels"].get(RELEASE) == served.label)
