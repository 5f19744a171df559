"""A ZenML store of the tests' own: made once a session in a temporary folder, the user's is never touched."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

USERS_CONFIG = Path(click.get_app_dir("zenml"))
PROJECT = Path(__file__).parents[1]


def _state(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime for path in [folder, *folder.rglob("*")]} if folder.exists() else {}


@pytest.fixture(scope="session", autouse=True)
def zenml_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where ZenML lives in this session. It reads these variables when it is imported, hence for every test."""
    home = tmp_path_factory.mktemp("zenml")
    environment = {
        "ZENML_CONFIG_PATH": str(home / "config"),
        "ZENML_LOCAL_STORES_PATH": str(home / "stores"),
        "ZENML_ANALYTICS_OPT_IN": "false",
        "ZENML_LOGGING_VERBOSITY": "WARN",
        "ZENML_ENABLE_REPO_INIT_WARNINGS": "false",
        "AUTO_OPEN_DASHBOARD": "false",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TEXT2SQL_CACHE": str(home / "cache"),
        "ZENML_CUSTOM_SOURCE_ROOT": str(PROJECT),
    }
    before = {name: os.environ.get(name) for name in environment}
    users_own = _state(USERS_CONFIG)
    os.environ.update(environment)
    os.environ.pop("ZENML_ACTIVE_STACK_ID", None)
    yield home
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    assert _state(USERS_CONFIG) == users_own, "a test has touched the user's own ZenML configuration"


@pytest.fixture(scope="session")
def zenml_client(zenml_home: Path) -> object:
    """A client of the session's store; ZenML and the pipelines are imported here, where their imports may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from zenml.client import Client
        from zenml.config.global_config import GlobalConfiguration

        import pipelines.train  # noqa: F401

        assert Path(GlobalConfiguration().config_directory) == zenml_home / "config"
        client = Client()
        assert client.active_stack_model.name == "default"
    return client
