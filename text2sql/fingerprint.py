"""What a training depends on, as a few short strings: two runs with the same ones would yield the same model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from text2sql.config import Settings
from text2sql.config.data import SYNTHETIC
from text2sql.hub import newest_commit
from text2sql.inputs import resolve_inputs

PARTS = ("data", "benchmark", "databases", "base", "code", "config")
NOT_TRAINING = {"output_dir", "deploy", "wandb"}
"""Settings that no model depends on."""
RESOLVED = {
    "data": {"path", "sha256", "benchmark", "benchmark_sha256", "databases", "databases_sha256", "dataset_revision"},
    "model": {"sha256", "revision"},
}
"""Settings that say which bytes an input has; they count as the input's own part."""


def pin_inputs(settings: Settings) -> Settings:
    """The settings with files found and checksummed, and with the newest commit of what comes from the hub.

    A hub that cannot be asked leaves its revision as it is.

    Raises:
        DataError, ModelError: an input is missing, or not the one that its checksum names.
    """
    return pin_hub(resolve_inputs(settings))


def pin_hub(settings: Settings) -> Settings:
    """The settings with the newest commit of what comes from the hub; as they are where it cannot be asked."""
    data, model = settings.data, settings.model
    if data.path is None and not data.is_generated:
        commit = newest_commit(data.dataset_name, data.dataset_revision, "dataset")
        data = data.model_copy(update={"dataset_revision": commit or data.dataset_revision})
    if model.sha256 is None:
        commit = newest_commit(model.name, model.revision, "model")
        model = model.model_copy(update={"revision": commit or model.revision})
    return settings.model_copy(update={"data": data, "model": model})


def fingerprint(settings: Settings, code: str) -> dict[str, str]:
    """Of settings with pinned inputs; `code` is a checksum of the sources. An empty string is what is not known."""
    data, model = settings.data, settings.model
    config = settings.model_dump(mode="json", exclude={**dict.fromkeys(NOT_TRAINING, True), **RESOLVED})
    return {
        "data": data.sha256 or data.dataset_revision or (SYNTHETIC if data.is_generated else ""),
        "benchmark": data.benchmark_sha256 or "none",
        "databases": data.databases_sha256 or "none",
        "base": model.sha256 or model.revision or "",
        "code": code,
        "config": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
    }


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Which parts differ; one that is not known now is taken to be what it was."""
    return [part for part, value in now.items() if value and before.get(part) != value]
