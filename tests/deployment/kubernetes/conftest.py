"""A cluster for the tests of this folder: the stand-in, or with TEXT2SQL_TEST_CLUSTER=1 that of KUBECONFIG.

In a real one each test has a namespace of its own, which it removes. Its pods run served_model.py with
TEXT2SQL_TEST_IMAGE (python:3.11-slim); where none comes up, for want of nodes or of the image, kubelet.py plays the
kubelet; where that is of no use either, such as without controllers, tests that need pods are skipped, and say why.
"""

from __future__ import annotations

import copy
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from tests.deployment.kubernetes.api_server import StandIn
from tests.deployment.kubernetes.kubelet import FAKE, Kubelet, kubelet
from text2sql.config import DeploySection
from text2sql.deployment.checks import Question, plain_http
from text2sql.deployment.kubernetes.api import APPLY, Cluster
from text2sql.deployment.kubernetes.manifests import label_of
from text2sql.deployment.kubernetes.rollout import troubles
from text2sql.deployment.kubernetes.target import KubernetesTarget, StoredModel
from text2sql.deployment.kubernetes.waiting import Pace
from text2sql.deployment.release import Release
from text2sql.deployment.target import Deployed, Limits, deploy
from text2sql.errors import DeploymentError

REAL = os.environ.get("TEXT2SQL_TEST_CLUSTER") == "1"
PACE = Pace(0.5, 10.0, 60.0) if REAL else Pace(0.01, 0.2, 2.0, 3)
QUESTIONS = [Question(f"question {i}", f"CREATE TABLE t (c{i} INTEGER)", f"SELECT c{i} FROM t", True) for i in range(8)]
NOT_ON_DEMAND = "a real API server does not fail on demand"
SERVER = Path(__file__).with_name("server.yaml")
PROGRAM = Path(__file__).with_name("served_model.py")


@cache
def server_yaml() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(SERVER.read_text()))


@dataclass
class Place:
    """A namespace in which releases are deployed whose pods behave as the test says."""

    namespace: str
    folder: Path
    stand_in: StandIn | None
    in_place: bool = False
    plain: bool = False
    """Without a strategy of its own: the API server fills in that of several servers."""
    token: str = ""
    """Of somebody else than the kubeconfig's user."""
    seconds: float = 60.0
    take_over: bool = False
    told: list[str] = field(default_factory=list)
    hook: Callable[[str], None] | None = None
    """Hears what a deployment tells, while it waits."""
    kubelet: Kubelet | None = None
    ports: dict[tuple[str, ...], int] = field(default_factory=dict)
    """Where that kubelet answers for which pods."""

    def target(self, behaviour: str = "healthy", **changes: str | None) -> KubernetesTarget:
        path = self.folder / f"{behaviour}-{secrets.token_hex(4)}.yaml"
        path.write_text("\n---\n".join(json.dumps(made) for made in self.manifests(behaviour, **changes)))
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
                    "nodes": "autoscaled",  # or a pod that fits nowhere would not come to be
                },
            }
        )
        return KubernetesTarget(section, StoredModel("s3://bucket/model"), self.cluster(), PACE)

    def manifests(
        self, behaviour: str, image: str | None = None, label: str = "", version: str = ""
    ) -> list[dict[str, Any]]:
        deployment, service = (copy.deepcopy(found) for found in server_yaml())
        if self.plain:
            del deployment["spec"]["strategy"]
        if self.in_place:
            deployment["spec"] |= {"replicas": 1, "strategy": {"type": "Recreate"}}
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        container["image"] = image or os.environ.get("TEXT2SQL_TEST_IMAGE", container["image"])
        container["env"][0]["value"] = behaviour
        if behaviour == "image":
            container["image"] = "registry.invalid/missing:1"
        if behaviour == "pending":
            container["resources"] = {name: {"cpu": "10m", "example.com/none": "1"} for name in ("requests", "limits")}
        elif self.kubelet is not None:
            deployment["spec"]["template"]["spec"]["nodeName"] = self.kubelet.node
            served = (behaviour, container["image"], label, version)
            container["ports"][0]["containerPort"] = self.ports.setdefault(served, self.kubelet.free_port())
        if label:
            deployment["spec"]["template"]["metadata"]["labels"]["test"] = label
        return [deployment, service]

    def deploy(self, version: str, behaviour: str = "healthy", **changes: str) -> Deployed:
        target = self.target(behaviour, version=version, **changes)
        return deploy(target, release(version), Path(), QUESTIONS, Limits(0.9, 30.0), self.tell)

    def tell(self, line: str) -> None:
        self.told.append(line)
        if self.hook is not None:
            self.hook(line)

    def cluster(self) -> Cluster:
        patience = 60.0 if REAL else 1.0
        found = Cluster.connect(self.namespace, patience=patience)
        return Cluster(client_of(found, self.token), self.namespace, patience) if self.token else found

    def edit(self, deployment: str, manager: str, change: dict[str, Any]) -> None:
        """Somebody else applies something, by force."""
        if self.stand_in is not None:
            self.stand_in.edit("Deployment", deployment, manager, change)
            return
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{deployment}"
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": deployment}} | change
        assert self.cluster().ask("PATCH", path, {"fieldManager": manager, "force": "true"}, body, APPLY).ok

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found = self.cluster().get(kind, name)
        assert found is not None, f"there is no {kind} {name}"
        return found

    def version(self) -> str | None:
        """The one that clients hear."""
        target = self.target()
        try:
            import httpx

            reply = httpx.get(f"{target.entrance}/readyz", trust_env=False, verify=plain_http())
            return reply.headers.get("X-Model-Version")
        finally:
            target._reach.close()


def client_of(cluster: Cluster, token: str) -> Any:
    """Of the same API server, for another user."""
    from kubernetes.client import ApiClient, Configuration

    known = cluster._client.configuration
    settings = Configuration(host=known.host, api_key={"authorization": f"Bearer {token}"})
    settings.ssl_ca_cert, settings.verify_ssl = known.ssl_ca_cert, known.verify_ssl
    return ApiClient(settings)


def release(version: str) -> Release:
    digest = f"{int(version):x}" * 64
    return Release("model", version, digest[:64], "Gate passed: 1 rule kept", "2026-01-01T00:00:00", {"bleu": 50.0})


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn | None]:
    """KUBECONFIG of the stand-in, or of the real cluster."""
    if REAL:
        if why := out_of_reach():
            pytest.fail(why)
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


@contextmanager
def namespace(folder: Path, played: bool) -> Iterator[Place]:
    """Of a real cluster; with the kubelet of the tests, or that of its nodes."""
    name = f"text2sql-test-{secrets.token_hex(4)}"
    cluster = Cluster.connect(name)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    with ExitStack() as stack:
        node = stack.enter_context(kubelet(cluster)) if played else None
        stack.callback(cluster.delete, "Namespace", name)
        metadata = {"name": "program", "namespace": name}
        program = {"served_model.py": PROGRAM.read_text()}
        cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": program})
        deadline = time.monotonic() + 10.0
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        while cluster.ask("GET", account).status == 404 and time.monotonic() < deadline:
            time.sleep(0.2)  # a controller makes it, without which no pod is let in
        yield Place(name, folder, None, kubelet=node)


@cache
def out_of_reach() -> str:
    """Why the real cluster cannot be asked, found out once; ""."""
    try:
        answer = Cluster.connect("default", patience=10.0).ask("GET", "/version")
    except DeploymentError as error:
        return str(error)
    return "" if answer.ok else f"the API server says {answer.status}"


@cache
def how_pods_fare() -> tuple[bool, str]:
    """Whether the kubelet of the tests has to be there; and why no pod comes up with it either, or ""."""
    nodes = Cluster.connect("default").ask("GET", "/api/v1/nodes").said.get("items", [])
    there = any(FAKE not in (node["metadata"].get("annotations") or {}) for node in nodes)
    without = answers_within(120.0, False) if there else "the cluster has no node"
    if not without:
        return False, ""
    try:
        played = answers_within(30.0, True)
    except OSError as error:
        played = f"this machine has no address but loopback's ({error})"
    return True, f"{without}; with a kubelet of the tests: {played}" if played else ""


def answers_within(seconds: float, played: bool) -> str:
    """ "" where a Deployment's pod becomes ready and its Service answers, else why not."""
    deadline, last = time.monotonic() + seconds, "nothing"
    with TemporaryDirectory() as folder, namespace(Path(folder), played) as place:
        cluster, first = place.cluster(), release("1")
        deployment, service = place.manifests("healthy", version="1")
        metadata = deployment["spec"]["template"]["metadata"]
        metadata["annotations"] = {"text2sql/model-version": "1", "text2sql/sha256": first.digest}
        metadata["labels"]["text2sql/release"] = label_of(first)
        for manifest in (deployment, service):
            cluster.apply(manifest)
        while time.monotonic() < deadline:
            path = f"/api/v1/namespaces/{place.namespace}/services/http:text2sql:http/proxy/readyz"
            try:
                answer = cluster.send("GET", path, None, {}, 5.0)
            except OSError as error:
                last = str(error)
            else:
                if answer.headers.get("X-Model-Version") == "1":
                    return ""
                last = str(answer.said.get("message") or answer.status)
            wrong = troubles(place.get("Deployment", "text2sql-server"), cluster.list("Pod"))
            if any(trouble.stuck for trouble in wrong) and time.monotonic() > deadline - seconds * 0.7:
                break
            time.sleep(0.5)
        words = "; ".join([last, *(trouble.words for trouble in wrong)])
    return f"no pod answered ({words})"


@pytest.fixture
def bare(kubeconfig: StandIn | None, tmp_path: Path) -> Iterator[Place]:
    """A namespace in which no pod has to come up."""
    if kubeconfig is not None:
        yield Place("test", tmp_path, kubeconfig)
        return
    with namespace(tmp_path, played=False) as found:
        yield found


@pytest.fixture
def place(kubeconfig: StandIn | None, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    if kubeconfig is not None:
        yield Place("test", tmp_path, kubeconfig)
        return
    if "stand_in" in request.fixturenames:
        pytest.skip(NOT_ON_DEMAND)  # before a namespace is made
    played, why = how_pods_fare()
    if why:
        pytest.skip(f"no pod runs in this cluster: {why}")
    with namespace(tmp_path, played) as found:
        yield found


@pytest.fixture(params=["rolling", "in-place"])
def either(place: Place, request: pytest.FixtureRequest) -> Place:
    """Several GPUs, or one."""
    place.in_place = request.param == "in-place"
    return place


@pytest.fixture
def stand_in(kubeconfig: StandIn | None) -> StandIn:
    """For what cannot be asked of a real cluster: failures of its API server."""
    if kubeconfig is None:
        pytest.skip(NOT_ON_DEMAND)
    return kubeconfig
