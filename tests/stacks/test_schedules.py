"""The time zone of a schedule, of which ZenML knows nothing, before a small Kubernetes API."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from stacks.schedules import set_zone
from tests.stacks.api_server import ApiServer
from text2sql.errors import StackError


class Old(ApiServer):
    """Drops the field without a word, as Kubernetes 1.20 does."""

    def answer(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any] | str]:
        if method == "PATCH":
            body["spec"].pop("timeZone")
        return super().answer(method, path, body)


@pytest.fixture(params=[ApiServer, Old])
def server(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    server = request.param()
    template = {"spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}}
    server.add("cronjobs", "job", "zenml", spec={"schedule": "0 3 * * 1", "jobTemplate": template})
    yield server
    server.close()


def test_a_time_zone_that_the_cluster_drops_is_told(server: ApiServer):
    from zenml.integrations.kubernetes.constants import KUBERNETES_CRON_JOB_METADATA_KEY

    orchestrator = SimpleNamespace(get_kube_client=server.client)
    client = SimpleNamespace(active_stack=SimpleNamespace(orchestrator=orchestrator))
    schedule = SimpleNamespace(name="weekly", run_metadata={KUBERNETES_CRON_JOB_METADATA_KEY: "job"})
    if isinstance(server, Old):
        with pytest.raises(StackError, match="CronJob job does not keep time zone Europe/Berlin; it takes Kubernetes"):
            set_zone(client, schedule, "Europe/Berlin", "zenml")
        return
    set_zone(client, schedule, "Europe/Berlin", "zenml")
    assert server.objects["zenml", "cronjobs"]["job"]["spec"]["timeZone"] == "Europe/Berlin"
