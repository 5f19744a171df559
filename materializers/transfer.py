"""Folders to and from an artifact store: file by file, as they are, in parallel threads, a piece at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from zenml.io import fileio

from text2sql.data.files import THREADS, list_files, sha256_file

PIECE = 8 * 1024 * 1024


def send_folder(
    folder: Path, target: str, link: bool = False, known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Store every file of a folder under `target`, any path ZenML can write to.

    `link` allows hard links instead of copies, for files that nobody will write to again; a linked file is read only
    where its SHA-256 is not `known`.

    Returns:
        The SHA-256 of each file by its relative path; of a copy, taken from the bytes that were sent.
    """
    known = known or {}
    files = [path.as_posix() for path in list_files(folder)]
    for parent in sorted({f"{target}/{name}".rpartition("/")[0] for name in files} | {target}):
        fileio.makedirs(parent)
    with ThreadPoolExecutor(THREADS) as pool:
        digests = pool.map(lambda name: _transfer(str(folder / name), f"{target}/{name}", link, known.get(name)), files)
        return dict(zip(files, digests, strict=True))


def receive_folder(source: str, folder: Path, link: bool = False) -> dict[str, str]:
    """Bring what `send_folder` stored into a folder; returns the SHA-256 of each file as it arrived."""
    files = list(_listing(source))
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(THREADS) as pool:
        digests = pool.map(lambda name: _transfer(f"{source}/{name}", str(folder / name), link), files)
        return dict(zip(files, digests, strict=True))


def _listing(folder: str, below: str = "") -> Iterator[str]:
    for entry in sorted(str(name) for name in fileio.listdir(f"{folder}/{below}")):
        name = f"{below}/{entry}" if below else entry
        if fileio.isdir(f"{folder}/{name}"):
            yield from _listing(folder, name)
        else:
            yield name


def _transfer(source: str, target: str, link: bool, known: str | None = None) -> str:
    if link:
        with suppress(OSError):  # another disk, another machine: copy instead
            os.link(source, target)
            return known or sha256_file(Path(target))
    with fileio.open(source, "rb") as incoming, fileio.open(target, "wb") as outgoing:
        return _copy(incoming, outgoing)


def _copy(incoming: BinaryIO, outgoing: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := incoming.read(PIECE):
        digest.update(piece)
        outgoing.write(piece)
    return digest.hexdigest()
