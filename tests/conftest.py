"""Fixtures of all tests; those with a model in them live in training_fixtures.py."""

import os

import pytest

pytest_plugins = ["tests.training_fixtures", "tests.vllm_fixtures", "tests.zenml_fixtures"]

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; threads of both would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side run files, not tests, so that a file's fixtures are made once; one worker has all that ask vLLM."""
    for item in items:
        of_vllm = "taught_model" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("vllm" if of_vllm else str(item.path)))
