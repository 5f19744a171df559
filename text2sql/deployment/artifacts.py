"""Model folders in an object store, by any path that fsspec knows: s3://, gs://, hf://, a folder.

A stored model is `manifest.json`, with the checksum of every file and the one of them all, beside `files/`: what
ZenML's artifact store holds (materializers.model_folder), and what `store` writes. The manifest is checked against
the one checksum, and each file against the manifest, so that a part of a model can be fetched and trusted too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2sql.data.files import THREADS, combined_checksum, folder_checksums, new_folder, sha256_folder
from text2sql.errors import ModelError, OutputError, Text2SQLError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

MANIFEST = "manifest.json"
FILES = "files"
PIECE = 8 << 20
SAFE = ("*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model")
"""What is fetched of a repository without a manifest; its pickles (CVE-2025-32434) and code are left where they are."""
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
DAY = 86_400


def fetch(source: str, digest: str, parent: Path, *, without_weights: bool = False, keep: int = 3) -> Path:
    """Bring a model to `parent/<digest>`; nothing is done where it is there and whole.

    Args:
        without_weights: tokenizer and prompt alone.
        keep: models that may lie in `parent`; those that were asked for longest ago go.

    Raises:
        ModelError: it cannot be read, or is not what its checksum says.
        OutputError: it cannot be written.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ModelError(f"{digest!r} is no SHA-256 of a model; the deploy step writes it into the pod's annotations")
    place = parent / digest
    if not _is_whole(place, digest, without_weights):
        shutil.rmtree(place, ignore_errors=True)
        try:
            with new_folder(parent) as incoming:
                _receive(source, digest, incoming, without_weights)
                incoming.chmod(0o755)
                incoming.rename(place)
        except OSError as error:
            raise OutputError(f"{parent}: the model cannot be written ({error.strerror or error})") from error
    os.utime(place)
    _prune(parent, keep)
    return place


def store(folder: Path, digest: str, parent: str) -> str:
    """Put a model folder to `parent/<digest>` of an object store, unless it is there; its address.

    Raises:
        ModelError: the folder is not what its checksum says.
        OutputError: it cannot be stored.
    """
    address = address_in(parent, digest)
    checksums = folder_checksums(folder)
    if combined_checksum(checksums) != digest:
        raise ModelError(f"the model in {folder} is damaged: its SHA-256 is not {digest[:12]}…")
    files, root = _open(address)
    manifest = json.dumps({"digest": digest, "files": checksums}, indent=2)

    def send() -> None:
        if files.exists(f"{root}/{MANIFEST}") and files.cat_file(f"{root}/{MANIFEST}").decode() == manifest:
            return
        for name in sorted({f"{root}/{FILES}/{name}".rpartition("/")[0] for name in checksums}):
            files.makedirs(name, exist_ok=True)
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda name: files.put_file(str(folder / name), f"{root}/{FILES}/{name}"), checksums))
        files.pipe_file(f"{root}/{MANIFEST}", manifest.encode())  # last: where it is, everything is

    try:
        send()
    except Exception as error:  # each kind of store has errors of its own
        raise OutputError(f"the model cannot be stored at {address} ({_brief(error)})") from error
    return address


def address_in(parent: str, digest: str) -> str:
    """Where `store` puts a folder."""
    return f"{parent.rstrip('/')}/{digest}"


def _receive(source: str, digest: str, folder: Path, without_weights: bool) -> None:
    files, root = _open(source)
    manifest = _manifest(files, root, source)
    if manifest is None and without_weights:
        raise ModelError(f"{source} has no {MANIFEST}: a part of it cannot be checked; fetch all of it")
    if manifest is not None and combined_checksum(manifest) != digest:
        raise ModelError(f"{source} is not the model that was asked for: SHA-256 {combined_checksum(manifest)}")
    below = f"{root}/{FILES}" if manifest is not None else root
    names = list(manifest) if manifest is not None else _safe_names(files, root, source)
    wanted = [name for name in names if not (without_weights and _is_weight(name))]
    for name in wanted:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            found = dict(zip(wanted, pool.map(lambda n: _copy(files, f"{below}/{n}", folder / n), wanted), strict=True))
    except OSError as error:
        if error.errno is not None and not isinstance(error, FileNotFoundError | PermissionError):
            raise  # of the disk
        raise ModelError(f"{source} cannot be read ({_brief(error)})") from error
    expected = {name: manifest[name] for name in wanted} if manifest is not None else None
    if expected not in (None, found):
        [bad, *_] = [name for name in wanted if found[name] != (expected or {})[name]]
        raise ModelError(f"{source} is damaged: {bad} has another SHA-256 than its manifest says")
    if expected is None and combined_checksum(found) != digest:
        raise ModelError(f"{source} is not the model that was asked for: its SHA-256 is {combined_checksum(found)}")


def _open(address: str) -> tuple[AbstractFileSystem, str]:
    from fsspec.core import url_to_fs

    try:
        files, root = url_to_fs(address)
    except (ImportError, OSError, ValueError) as error:
        raise ModelError(f"{address} cannot be opened ({_brief(error)})") from error
    return files, str(root).rstrip("/")


def _manifest(files: AbstractFileSystem, root: str, source: str) -> dict[str, str] | None:
    """Checksums by name; None where the store has none."""
    found = _told(source, lambda: files.cat_file(f"{root}/{MANIFEST}") if files.exists(f"{root}/{MANIFEST}") else None)
    if found is None:
        return None
    try:
        return {str(name): str(checksum) for name, checksum in json.loads(found)["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{source}/{MANIFEST} is damaged ({_brief(error)})") from error


def _safe_names(files: AbstractFileSystem, root: str, source: str) -> list[str]:
    found = _told(source, lambda: files.find(root))
    names = [str(path).removeprefix(root).lstrip("/") for path in found]
    safe = [name for name in names if not name.startswith(".") and any(fnmatch(name, kind) for kind in SAFE)]
    if not safe:
        raise ModelError(f"{source} holds no model")
    return sorted(safe)


def _told(source: str, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Text2SQLError:
        raise
    except Exception as error:  # each kind of store has errors of its own
        raise ModelError(f"{source} cannot be read ({_brief(error)})") from error


def _copy(files: AbstractFileSystem, source: str, target: Path) -> str:
    digest = hashlib.sha256()
    with files.open(source, "rb", block_size=PIECE) as incoming, target.open("wb") as outgoing:
        while piece := incoming.read(PIECE):
            digest.update(piece)
            outgoing.write(piece)
    return digest.hexdigest()


def _is_whole(place: Path, digest: str, without_weights: bool) -> bool:
    """A part was checked when it came, and is small; a whole is hashed again."""
    return place.is_dir() and (without_weights or sha256_folder(place) == digest)


def _is_weight(name: str) -> bool:
    return any(fnmatch(name, kind) for kind in WEIGHTS)


def _prune(parent: Path, keep: int) -> None:
    by_age = sorted(parent.iterdir(), key=lambda entry: entry.stat().st_mtime, reverse=True)
    models = [entry for entry in by_age if re.fullmatch(r"[0-9a-f]{64}", entry.name)]
    old = time.time() - DAY
    left = [entry for entry in by_age if entry.name.startswith(".incoming-") and entry.stat().st_mtime < old]
    for entry in models[keep:] + left:
        shutil.rmtree(entry, ignore_errors=True)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
