"""A Service of the cluster on loopback: what passes, in both directions."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.deployment.kubernetes.api_server import Fault, StandIn
from tests.deployment.kubernetes.conftest import Place, release
from text2sql.config import KubernetesSection
from text2sql.deployment.kubernetes.reach import Reach
from text2sql.deployment.kubernetes.relay import Relay
from text2sql.deployment.kubernetes.waiting import Pace
from text2sql.errors import DeploymentError


@pytest.fixture
def relay(place: Place) -> Iterator[Relay]:
    place.deploy("1")
    found = Relay(place.cluster(), "text2sql")
    yield found
    found.close()


def test_questions_and_answers_pass(relay: Relay):
    with httpx.Client(base_url=relay.address, trust_env=False) as client:
        ready = client.get("/readyz")
        assert (ready.status_code, ready.headers["X-Model-Version"]) == (200, "1")
        assert client.post("/generate", json={"question": "question 3"}).json()["sql"] == "SELECT c3 FROM t"
        assert client.get("/nowhere").status_code == 404


def test_a_cluster_out_of_reach_is_a_503_that_may_be_asked_again(relay: Relay, stand_in: StandIn):
    stand_in.faults.append(Fault("GET", "proxy", 0))
    reply = httpx.get(f"{relay.address}/readyz", trust_env=False)
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")


def test_our_credentials_stay_on_the_way_to_the_api_server(relay: Relay, stand_in: StandIn):
    seen = []
    handle = stand_in.handle

    def spy(method: str, target: str, body: bytes, headers: object) -> object:
        seen.append(dict(headers))  # type: ignore[call-overload]
        return handle(method, target, body, headers)

    stand_in.handle = spy  # type: ignore[method-assign, assignment]
    httpx.get(f"{relay.address}/readyz", headers={"Authorization": "Bearer t2s_key", "Cookie": "a=b"}, trust_env=False)
    [headers] = seen
    assert headers["X-API-Key"] == "t2s_key"
    assert "Cookie" not in headers
    assert headers.get("authorization", headers.get("Authorization")) == "Bearer secret", "that of the kubeconfig"


def test_a_pod_asks_the_service_by_name_and_others_through_the_api_server(bare: Place, monkeypatch: pytest.MonkeyPatch):
    def address(how: str) -> str:
        found = Reach(bare.cluster(), KubernetesSection(reach=how), Pace())
        try:
            return found.address_of("text2sql", 80)
        finally:
            found.close()

    name = f"http://text2sql.{bare.namespace}.svc:80"
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert address("cluster") == name
    assert address("auto").startswith("http://127.0.0.1:")
    found = Reach(bare.cluster(), KubernetesSection(), Pace())
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert found.address_of("text2sql", 80) == name


def test_a_service_that_goes_on_answering_with_another_version_is_told_of(place: Place):
    place.deploy("1")
    found = Reach(place.cluster(), KubernetesSection(reach="api"), Pace(0.01, answer=0.3))
    with pytest.raises(DeploymentError, match="does not answer with version 2 within 0.3 s, but 200 of version 1"):
        found.answers("text2sql", 80, release("2"))
    found.close()
