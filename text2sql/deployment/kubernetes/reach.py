"""How the deploy step asks a Service: by its name inside the cluster, or from outside through the API server."""

from __future__ import annotations

import time

import httpx

from text2sql.config import KubernetesSection
from text2sql.deployment.checks import plain_http
from text2sql.deployment.kubernetes.api import Cluster, is_pod
from text2sql.deployment.kubernetes.relay import Relay
from text2sql.deployment.kubernetes.waiting import Pace
from text2sql.deployment.release import Release
from text2sql.errors import DeploymentError
from text2sql.serving.connection import VERSION_HEADER

REPLY_SECONDS = 10.0


class Reach:
    """The Services of a namespace, as addresses that can be asked from here."""

    def __init__(self, cluster: Cluster, settings: KubernetesSection, pace: Pace) -> None:
        self._cluster, self._how, self._pace = cluster, settings.reach, pace
        self._relays: dict[str, Relay] = {}

    @property
    def is_by_proxy(self) -> bool:
        """Whether Services are asked through the API server."""
        return self._how == "api" or (self._how == "auto" and not is_pod())

    def name_of(self, service: str, port: int) -> str:
        """Its address for pods."""
        return f"http://{service}.{self._cluster.namespace}.svc:{port}"

    def address_of(self, service: str, port: int) -> str:
        """Its address from here."""
        if not self.is_by_proxy:
            return self.name_of(service, port)
        if service not in self._relays:
            self._relays[service] = Relay(self._cluster, service)
        return self._relays[service].address

    def close(self) -> None:
        while self._relays:
            self._relays.popitem()[1].close()

    def answers(self, service: str, port: int, release: Release) -> str:
        """Wait until a Service answers with a release alone; its address from here.

        Raises:
            DeploymentError: it does not come to that in time.
        """
        address, steady, last = self.address_of(service, port), 0, "nothing"
        deadline = time.monotonic() + self._pace.answer
        # a connection that is kept stays with one pod, and others would not be heard
        each_anew = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(
            base_url=address, timeout=REPLY_SECONDS, limits=each_anew, trust_env=False, verify=plain_http()
        ) as client:
            while steady < self._pace.steady:
                if time.monotonic() > deadline:
                    raise DeploymentError(
                        f"Service {service} does not answer with version {release.version} within "
                        f"{self._pace.answer:g} s, but {last} (asked at {address}; deploy.kubernetes.reach says how)"
                    )
                try:
                    reply = client.get("/readyz")
                    found = reply.headers.get(VERSION_HEADER, "none")
                    last = f"{reply.status_code} of version {found}"
                    steady = steady + 1 if reply.is_success and found == release.version else 0
                except httpx.HTTPError as error:
                    last, steady = type(error).__name__, 0
                time.sleep(self._pace.poll / 4)
        return address
