"""Fixtures of all tests; those with a model in them live in training_fixtures.py."""

pytest_plugins = ["tests.training_fixtures", "tests.vllm_fixtures", "tests.zenml_fixtures"]
