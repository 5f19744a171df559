"""A cluster for the tests of this folder: the stand-in, or with TEXT2SQL_TEST_CLUSTER=1 that of KUBECONFIG.

In a real one the pods run served_model.py with TEXT2SQL_TEST_IMAGE (python:3.11-slim), in a namespace of each test's
own.
"""

from __future__ import annotations

import copy
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployment.kubernetes.api_server import StandIn
from text2sql.config import DeploySection
from text2sql.deployment.checks import Question
from text2sql.deployment.kubernetes.api import Cluster
from text2sql.deployment.kubernetes.target import KubernetesTarget, StoredModel
from text2sql.deployment.kubernetes.waiting import Pace
from text2sql.deployment.release import Release
from text2sql.deployment.target import Deployed, Limits, deploy

REAL = os.environ.get("TEXT2SQL_TEST_CLUSTER") == "1"
QUESTIONS = [Question(f"question {i}", f"CREATE TABLE t (c{i} INTEGER)", f"SELECT c{i} FROM t", True) for i in range(8)]
SERVER = Path(__file__).with_name("server.yaml")
PROGRAM = Path(__file__).with_name("served_model.py")


@dataclass
class Place:
    """A namespace in which releases are deployed whose pods behave as the test says."""

    namespace: str
    folder: Path
    stand_in: StandIn | None
    in_place: bool = False
    seconds: float = 60.0
    take_over: bool = False
    told: list[str] = field(default_factory=list)
    hook: Callable[[str], None] | None = None
    """Hears what a deployment tells, while it waits."""

    def target(self, behaviour: str = "healthy", **changes: Any) -> KubernetesTarget:
        path = self.folder / f"{behaviour}-{secrets.token_hex(4)}.yaml"
        path.write_text(yaml.safe_dump_all(self.manifests(behaviour, **changes)))
        section = DeploySection.model_validate(
            {
                "target": "kubernetes",
                "startup_seconds": self.seconds,
                "check_seconds": 30,
                "kubernetes": {
                    "namespace": self.namespace,
                    "manifests": str(path),
                    "reach": "api",
                    "take_over": self.take_over,
                },
            }
        )
        pace = Pace(1.0, 10.0, 60.0) if REAL else Pace(0.01, 0.2, 2.0, 3)
        cluster = Cluster.connect(self.namespace, patience=60.0 if REAL else 1.0)
        return KubernetesTarget(section, StoredModel("s3://bucket/model"), cluster, pace)

    def manifests(self, behaviour: str, image: str | None = None, label: str = "") -> list[dict[str, Any]]:
        deployment, service = (copy.deepcopy(found) for found in yaml.safe_load_all(SERVER.read_text()))
        if self.in_place:
            deployment["spec"] |= {"replicas": 1, "strategy": {"type": "Recreate"}}
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        container["image"] = image or os.environ.get("TEXT2SQL_TEST_IMAGE", container["image"])
        container["env"][0]["value"] = behaviour
        if behaviour == "image":
            container["image"] = "registry.invalid/missing:1"
        if behaviour == "pending":
            container["resources"] = {name: {"cpu": "10m", "example.com/none": "1"} for name in ("requests", "limits")}
        if label:
            deployment["spec"]["template"]["metadata"]["labels"]["test"] = label
        return [deployment, service]

    def deploy(self, version: str, behaviour: str = "healthy", **changes: Any) -> Deployed:
        target = self.target(behaviour, **changes)
        return deploy(target, release(version), Path(), QUESTIONS, Limits(0.9, 30.0), self.tell)

    def tell(self, line: str) -> None:
        self.told.append(line)
        if self.hook is not None:
            self.hook(line)

    def cluster(self) -> Cluster:
        return Cluster.connect(self.namespace, patience=60.0 if REAL else 1.0)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found = self.cluster().get(kind, name)
        assert found is not None, f"there is no {kind} {name}"
        return found

    def version(self) -> str | None:
        """The one that clients hear."""
        target = self.target()
        try:
            import httpx

            reply = httpx.get(f"{target.entrance}/readyz", trust_env=False)
            return reply.headers.get("X-Model-Version")
        finally:
            target._reach.close()


def release(version: str) -> Release:
    digest = f"{int(version):x}" * 64
    return Release("model", version, digest[:64], "Gate passed: 1 rule kept", "2026-01-01T00:00:00", {"bleu": 50.0})


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn | None]:
    """KUBECONFIG of the stand-in, or of the real cluster."""
    if REAL:
        yield None
        return
    server = StandIn()
    path = tmp_path / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "test",
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "test"}}],
                "clusters": [{"name": "test", "cluster": {"server": server.address}}],
                "users": [{"name": "test", "user": {"token": "secret"}}],
            }
        )
    )
    monkeypatch.setenv("KUBECONFIG", str(path))
    yield server
    server.close()


@pytest.fixture
def place(kubeconfig: StandIn | None, tmp_path: Path) -> Iterator[Place]:
    if kubeconfig is not None:
        yield Place("test", tmp_path, kubeconfig)
        return
    namespace = f"text2sql-test-{secrets.token_hex(4)}"
    cluster = Cluster.connect(namespace)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
    try:
        program = {"served_model.py": PROGRAM.read_text()}
        metadata = {"name": "program", "namespace": namespace}
        cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": program})
        time.sleep(2)  # the service account "default" is made meanwhile
        yield Place(namespace, tmp_path, None)
    finally:
        cluster.delete("Namespace", namespace)


@pytest.fixture(params=["rolling", "in-place"])
def either(place: Place, request: pytest.FixtureRequest) -> Place:
    """Several GPUs, or one."""
    place.in_place = request.param == "in-place"
    return place


@pytest.fixture
def stand_in(kubeconfig: StandIn | None) -> StandIn:
    """For what cannot be asked of a real cluster: failures of its API server."""
    if kubeconfig is None:
        pytest.skip("a real API server does not fail on demand")
    return kubeconfig
