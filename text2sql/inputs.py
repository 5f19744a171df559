"""What a run starts from: the data file and the model folder that the settings name, found and fingerprinted.

The checksums go into the settings, hence into the cache key of the steps that read them: a file that changed under
the same name is never answered with old results.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from text2sql.config import DataSection, ModelSection, Settings
from text2sql.data.files import sha256_file, sha256_folder
from text2sql.data.load import is_prepared
from text2sql.errors import DataError, ModelError, Text2SQLError
from text2sql.hub import check_on_hub

PROJECT = Path(__file__).parents[1]
"""Shipped configs name shipped files relative to it, so that they work from any folder."""


def resolve_inputs(settings: Settings, rows: bool = True, elsewhere: bool = False) -> Settings:
    """The settings with the files and folders of `data` and `model` found, and their checksums filled in.

    Args:
        rows: whether rows will be read; without, data.path and data.benchmark are left as they are.
        elsewhere: the steps run on other machines. Paths stay as they are given, and one that is not here may be there.

    Raises:
        DataError: the data file or the benchmark is missing, unreadable, or not the one that its checksum names.
        ModelError: likewise for a local model folder.
    """
    data, model = settings.data, settings.model
    if not elsewhere:
        return settings.model_copy(update={"data": _resolve_data(data, rows), "model": _resolve_model(model)})
    paths = {name: getattr(data, name) for name in ("path", "databases", "benchmark")}
    if all(path is None or _locate(path) is not None for path in paths.values()):
        data = _resolve_data(data, rows).model_copy(update=paths)
    if _is_local(model.name) and _locate(Path(model.name)) is not None:
        model = _resolve_model(model).model_copy(update={"name": model.name})
    return settings.model_copy(update={"data": data, "model": model})


def check_reachable(model: ModelSection) -> None:
    """Ask the hub for a model that is no folder here.

    Raises:
        ModelError: neither the hub nor its cache on this machine gives it.
    """
    if not _is_local(model.name):
        check_on_hub(model.name, model.revision)


def _locate(path: Path) -> Path | None:
    """The path as given when it exists, else the same path in the project, else None."""
    path = path.expanduser()
    for candidate in (path, PROJECT / path):
        if os.path.exists(candidate):  # noqa: PTH110 - unlike Path.exists, False where a folder above may not be entered
            return candidate
    return None


def _resolve_data(data: DataSection, rows: bool) -> DataSection:
    found: dict[str, object] = {}
    if rows and data.path is not None:
        path = _data_file(data.path, "data.path", "leave it out to use dataset_name", prepared=True)
        found["path"] = path
        found["sha256"] = _file_checksum(path, "data.path", "data.sha256", data.sha256)
    if data.databases is not None:
        folder = _locate(data.databases)
        if folder is None or not folder.is_dir():
            raise DataError(f"data.databases = {str(data.databases)!r}: no such folder; correct it, or leave it out")
        found["databases"] = folder
        found["databases_sha256"] = _file_checksum(
            folder, "data.databases", "data.databases_sha256", data.databases_sha256
        )
    if rows and data.benchmark is not None:
        path = _data_file(data.benchmark, "data.benchmark", "leave it out")
        found["benchmark"] = path
        found["benchmark_sha256"] = _file_checksum(
            path, "data.benchmark", "data.benchmark_sha256", data.benchmark_sha256
        )
    return data.model_copy(update=found)


def _data_file(given: Path, key: str, otherwise: str, prepared: bool = False) -> Path:
    path = _locate(given)
    if path is None:
        raise DataError(f"{key} = {str(given)!r}: no such file; correct it, or {otherwise}")
    if not path.is_file() and not (prepared and is_prepared(path)):
        raise DataError(f"{key} = {str(given)!r} is a folder; name one .json, .jsonl, .csv or .parquet file")
    return path


def _file_checksum(path: Path, key: str, checksum_key: str, wanted: str | None) -> str:
    checksum = sha256_folder if path.is_dir() else sha256_file
    return _checksum(lambda: checksum(path), f"{key} = {str(path)!r}", checksum_key, wanted, DataError)


def _resolve_model(model: ModelSection) -> ModelSection:
    if not _is_local(model.name):
        return model
    folder = _locate(Path(model.name))
    if folder is None:
        raise ModelError(f"model.name = {model.name!r}: no such folder; correct it, or name a model of the hub")
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"model.name = {model.name!r} holds no config.json; name the folder that save_pretrained wrote"
        )
    digest = _checksum(
        lambda: sha256_folder(folder), f"model.name = {model.name!r}", "model.sha256", model.sha256, ModelError
    )
    return model.model_copy(update={"name": str(folder), "sha256": digest})


def _checksum(compute: Callable[[], str], what: str, key: str, wanted: str | None, error: type[Text2SQLError]) -> str:
    """The checksum of an input, refused with `error` when it cannot be read or is not the one that is wanted."""
    try:
        digest = compute()
    except OSError as failure:
        raise error(f"{what} cannot be read: {failure.strerror}; check its rights") from failure
    if wanted not in (None, digest):
        raise error(
            f"{what} has SHA-256 {digest}, and {key} asks for {wanted}; restore it, or leave {key} out to accept it"
        )
    return digest


def _is_local(name: str) -> bool:
    """Whether a model's name means a folder: it looks like a path, or its first part is a folder here.

    A hub name is `model` or `owner/model`; `assets/tiny` is a folder because `assets` is one.
    """
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        return True
    return _locate(Path(name.partition("/")[0])) is not None
