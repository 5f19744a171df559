"""Adapters and models as ZenML artifacts: a folder stored file by file, named and checked by its checksum."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, ClassVar

from zenml.enums import ArtifactType

from materializers.base import Metadata, PageMaterializer
from materializers.html import page
from materializers.transfer import receive_folder, send_folder
from materializers.types import ModelFolder
from text2sql.data.files import combined_checksum, folder_checksums, list_files, new_folder, sha256_folder
from text2sql.deployment.artifacts import FILES, MANIFEST
from text2sql.errors import ModelError
from text2sql.progress import working

KEPT_ENTRIES = 4
KEPT_SECONDS = 24 * 3600
"""The cache keeps this many models, and every one that was asked for within this time."""


def cache_folder() -> Path:
    """Where models lie that steps have made or loaded: $TEXT2SQL_CACHE, else the user's cache folder."""
    base = os.environ.get("TEXT2SQL_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "text2sql"
    return Path(base).expanduser().resolve() / "models"


def keep(folder: Path, checksums: dict[str, str] | None = None) -> ModelFolder:
    """Move a finished folder of ours into the cache, where the next step finds it without a copy.

    `checksums` are those of its files where they are known already.
    """
    checksums = checksums or folder_checksums(folder)
    digest = combined_checksum(checksums)
    place = cache_folder() / digest
    place.parent.mkdir(parents=True, exist_ok=True)
    _prune(place.parent)
    try:
        folder.rename(place)
    except OSError:  # it is there already (folders are not renamed over full ones)
        if not place.is_dir():
            raise
        shutil.rmtree(folder)
    return ModelFolder(place, digest, checksums)


class ModelFolderMaterializer(PageMaterializer):
    """A `ModelFolder`; the caller's folder is read, never changed."""

    ASSOCIATED_TYPES: ClassVar = (ModelFolder,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar = ArtifactType.MODEL
    SKIP_REGISTRATION: ClassVar[bool] = False

    def save(self, data: ModelFolder) -> None:
        ours = cache_folder() in data.path.resolve().parents
        with working("storing the model"):
            checksums = send_folder(data.path, f"{self.uri}/{FILES}", link=ours, known=data.checksums)
        if combined_checksum(checksums) != data.digest:
            raise ModelError(f"{data.path} changed while it was stored; run the command again")
        with self.artifact_store.open(f"{self.uri}/{MANIFEST}", "w") as file:
            json.dump({"digest": data.digest, "files": checksums}, file, indent=2)

    def load(self, data_type: type[Any]) -> ModelFolder:  # noqa: ARG002
        """The folder, from the cache where it is there and whole, else from the store.

        Raises:
            ModelError: what is stored is not what was saved.
        """
        with self.artifact_store.open(f"{self.uri}/{MANIFEST}", "r") as file:
            digest = str(json.load(file)["digest"])
        place = cache_folder() / digest
        with working("checking the cached model"):
            whole = _is_whole(place, digest)
        if not whole:
            shutil.rmtree(place, ignore_errors=True)
            with working("fetching the model from the store"), new_folder(cache_folder()) as incoming:
                checksums = receive_folder(f"{self.uri}/{FILES}", incoming, link=True)
                if combined_checksum(checksums) != digest:
                    raise ModelError(
                        f"the stored model {self.uri} is damaged (SHA-256 differs); run again with --no-cache"
                    )
                keep(incoming, checksums)
        os.utime(place)
        return ModelFolder(place, digest)

    def render(self, data: ModelFolder) -> str:
        files = [(path.as_posix(), (data.path / path).stat().st_size) for path in list_files(data.path)]
        return page(f"Model folder {data.digest[:12]}", [("", ("file", "bytes"), files)])

    def extract_metadata(self, data: ModelFolder) -> Metadata:
        files = list_files(data.path)
        return {
            "sha256": data.digest,
            "files": len(files),
            "bytes": sum((data.path / path).stat().st_size for path in files),
        }

    def compute_content_hash(self, data: ModelFolder) -> str:
        return data.digest


def _is_whole(place: Path, digest: str) -> bool:
    return place.is_dir() and sha256_folder(place) == digest


def _prune(cache: Path) -> None:
    """Forget models that nobody asked for of late; the artifact store still has them."""
    if not cache.is_dir():
        return
    by_age = sorted((entry for entry in cache.iterdir()), key=lambda entry: entry.stat().st_mtime, reverse=True)
    for entry in by_age[KEPT_ENTRIES:]:
        if time.time() - entry.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(entry, ignore_errors=True)
