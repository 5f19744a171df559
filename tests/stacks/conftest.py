"""Stacks of the tests' own, and pipelines compiled on them: once a session, for that takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.stacks.api_server import ApiServer
from tests.training_fixtures import tiny_settings

if TYPE_CHECKING:
    from stacks.place import Place
    from tests.stacks.compiled import Compiled
    from text2sql.config import Settings


@pytest.fixture(scope="session")
def cluster_settings(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return tiny_settings(tiny_model, tmp_path_factory.mktemp("clusters"))


@pytest.fixture(scope="session")
def credentials() -> Iterator[None]:
    """What registering a stack reads; examples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key-of-the-tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-tests")
        yield


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A Kubernetes API that the default kubeconfig leads to, for the rest of the session."""
    server = ApiServer()
    file = tmp_path_factory.mktemp("kube") / "config"
    named = {"name": "kubernetes"}
    config = {
        "current-context": "kubernetes",
        "clusters": [{**named, "cluster": {"server": server.host}}],
        "users": [{**named, "user": {"token": "of-the-tests"}}],
        "contexts": [{**named, "context": {"cluster": "kubernetes", "user": "kubernetes"}}],
    }
    file.write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:  # the client reads KUBECONFIG once, when it is imported
        patch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
        yield server
    server.close()


@pytest.fixture(scope="session")
def kubernetes_place(zenml_client: Any, credentials: None, api_server: ApiServer) -> Place:
    from tests.stacks.compiled import register_parts

    return register_parts("kubernetes", zenml_client)


@pytest.fixture(scope="session")
def kubeflow_place(zenml_client: Any, credentials: None) -> Place:
    from tests.stacks.compiled import register_parts

    return register_parts("kubeflow", zenml_client)


@pytest.fixture(scope="session")
def on_kubernetes(kubernetes_place: Place, cluster_settings: Settings) -> Compiled:
    """The retrain pipeline, which has every step."""
    from tests.stacks.compiled import compile_for

    return compile_for(kubernetes_place, "retrain", cluster_settings)


@pytest.fixture(scope="session")
def on_kubeflow(kubeflow_place: Place, cluster_settings: Settings) -> Compiled:
    """The retrain pipeline, which has every step."""
    from tests.stacks.compiled import compile_for

    return compile_for(kubeflow_place, "retrain", cluster_settings)
