from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment.local import Local


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    made = Local(tmp_path)
    yield made
    made.target.stop(made.told.append)
    assert made.processes() == []


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """Version 1 is live; what a test does to it must leave it so."""
    made = Local(tmp_path_factory.mktemp("live"))
    made.deploy("1")
    yield made
    made.target.stop(made.told.append)
    assert made.processes() == []
