"""From a Deployment as it should be to servers as they are, or the reason why not, within bounded time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from text2sql.deployment.checks import Tell
from text2sql.deployment.kubernetes.api import Cluster, Manifest
from text2sql.deployment.kubernetes.manifests import COMPONENT, RELEASE, TEMPLATE
from text2sql.deployment.kubernetes.rollout import evidence, troubles, unfinished
from text2sql.errors import DeploymentError

TOLD_EVERY = 10.0


@dataclass(frozen=True)
class Pace:
    """How long things may take, in seconds."""

    poll: float = 2.0
    stuck: float = 120.0
    """What hardly resolves by itself, such as an image that cannot be pulled, is given this long."""
    answer: float = 60.0
    """From a server that is ready to a Service that answers with it."""
    steady: int = 5
    """Replies in a row with the new version, before it is believed that no old server answers any more."""


class Rollouts:
    """Of one namespace.

    Args:
        seconds: in which a server must be ready.
        take_over: fields that another manages.
    """

    def __init__(self, cluster: Cluster, pace: Pace, seconds: float, take_over: bool) -> None:
        self._cluster, self._pace, self._seconds, self._take_over = cluster, pace, seconds, take_over

    def roll(self, deployment: Manifest, tell: Tell, check: Callable[[], None] = lambda: None) -> None:
        """Apply a Deployment and wait until every server, and nothing else, is the new one and serves.

        Args:
            check: raises where there is no sense in going on.

        Raises:
            DeploymentError: it does not come to that, with the pods' events and last words.
        """
        begun = told_at = time.monotonic()
        name = deployment["metadata"]["name"]
        found = self._cluster.apply(deployment, self._take_over)
        seconds = self._seconds * max(int(found["spec"].get("replicas", 1)), 1)  # one after the other
        since: dict[str, float] = {}
        while missing := unfinished(found):
            now = time.monotonic()
            check()
            pods = self.pods(deployment)
            wrong = troubles(found, pods)
            since = {t.about: since.get(t.about, now) for t in wrong if t.stuck}
            over = [t for t in wrong if t.hopeless or (t.stuck and now - since[t.about] > self._pace.stuck)]
            if over or now - begun > seconds:
                late = "" if over else f"it was not ready within {seconds:g} s (deploy.startup_seconds): {missing}"
                raise DeploymentError(self._told(late, [t.words for t in over or wrong], pods, tell))
            if now - told_at > TOLD_EVERY:
                told_at = now
                tell(f"{now - begun:.0f} s: {'; '.join([missing, *(t.words for t in wrong)])}")
            time.sleep(self._pace.poll)
            found = self._cluster.get("Deployment", name) or {}
            if not found:
                raise DeploymentError(f"somebody has deleted Deployment {name} meanwhile")
        tell(f"ready after {time.monotonic() - begun:.0f} s")

    def pods(self, deployment: Manifest) -> list[Manifest]:
        """Those that it asks for now. Others of the same release may be served in another way, and what ails them may
        be what is mended now."""
        template = deployment["spec"]["template"]["metadata"]
        chosen = [f"{name}={template['labels'][name]}" for name in (COMPONENT, RELEASE)]
        found = self._cluster.list("Pod", labelSelector=",".join(chosen))
        return [
            pod
            for pod in found
            if "deletionTimestamp" not in pod["metadata"]
            and (pod["metadata"].get("annotations") or {}).get(TEMPLATE) == template["annotations"].get(TEMPLATE)
        ]

    def _told(self, late: str, words: list[str], pods: list[Manifest], tell: Tell) -> str:
        try:
            short, lines = evidence(self._cluster, pods)
        except DeploymentError as error:
            short, lines = f"its events and logs cannot be read: {error}", []
        for line in lines:
            tell(line)
        return "; ".join(part for part in (late, *words, short) if part)
