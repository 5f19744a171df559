"""Stacks of the tests' own, and pipelines compiled on them: once a session, for that takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.stacks import compiled
from tests.training_fixtures import tiny_settings


@pytest.fixture(scope="session")
def settings_for_clusters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_settings(tiny_model, tmp_path_factory.mktemp("clusters"))


@pytest.fixture(scope="session", autouse=True)
def credentials() -> Any:
    """What registering a stack reads; example values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key-of-the-tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-tests")
        yield


@pytest.fixture(scope="session")
def kubernetes_place(zenml_client: Any, credentials: None) -> Any:
    return compiled.registered("kubernetes", zenml_client)


@pytest.fixture(scope="session")
def kubeflow_place(zenml_client: Any, credentials: None) -> Any:
    return compiled.registered("kubeflow", zenml_client)
