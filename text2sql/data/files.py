"""Files and folders: checksums that name their content, and folders that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

THREADS = min(8, (os.cpu_count() or 1) + 2)
"""hashlib and the copy calls of the system let go of the GIL, so threads are enough to keep a disk busy."""


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hex digits, read in pieces.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(folder: Path) -> list[Path]:
    """Every file below a folder, relative to it and sorted; names that start with a dot are left out.

    Hidden entries are what tools leave behind (`.cache` of a hub download, `.git`), not what a model is made of.
    """
    found = [
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return sorted(found, key=lambda path: path.as_posix())


def folder_checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder by its relative POSIX path, in order of paths."""
    files = list_files(folder)
    with ThreadPoolExecutor(THREADS) as pool:
        digests = pool.map(lambda path: sha256_file(folder / path), files)
        return {path.as_posix(): digest for path, digest in zip(files, digests, strict=True)}


def combined_checksum(checksums: dict[str, str]) -> str:
    """One SHA-256 for a folder, from the paths and checksums of its files."""
    lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(checksums.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def sha256_folder(folder: Path) -> str:
    """One SHA-256 over the names and the bytes of a folder's files; the folder's own name does not count."""
    return combined_checksum(folder_checksums(folder))


@contextmanager
def new_folder(parent: Path) -> Iterator[Path]:
    """An empty hidden folder under `parent` (same file system, so that it can be renamed into place).

    What is still there at the end is deleted, also after an error.
    """
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / f".incoming-{uuid.uuid4().hex}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
