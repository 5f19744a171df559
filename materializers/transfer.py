"""Folders to and from an artifact store: file by file, as they are, in parallel threads, a piece of a file at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from zenml.io import fileio

from text2sql.data.files import THREADS, list_files

PIECE = 8 * 1024 * 1024


def send_folder(folder: Path, target: str, link: bool = False) -> dict[str, str]:
    """Store every file of a folder under `target`, any path ZenML can write to.

    `link` allows hard links instead of copies, for files that nobody will write to again.

    Returns:
        The SHA-256 of each file by its relative path, taken from the bytes that were sent.
    """
    files = [path.as_posix() for path in list_files(folder)]
    for parent in sorted({os.path.dirname(os.path.join(target, name)) for name in files} | {target}):
        fileio.makedirs(parent)
    with ThreadPoolExecutor(THREADS) as pool:
        digests = pool.map(lambda name: _transfer(str(folder / name), os.path.join(target, name), link), files)
        return dict(zip(files, digests, strict=True))


def receive_folder(source: str, folder: Path, link: bool = False) -> dict[str, str]:
    """Bring what `send_folder` stored into a folder; returns the SHA-256 of each file as it arrived."""
    files = list(_listing(source))
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(THREADS) as pool:
        digests = pool.map(lambda name: _transfer(os.path.join(source, name), str(folder / name), link), files)
        return dict(zip(files, digests, strict=True))


def _listing(folder: str, below: str = "") -> Iterator[str]:
    for entry in sorted(str(name) for name in fileio.listdir(os.path.join(folder, below))):
        name = f"{below}/{entry}" if below else entry
        if fileio.isdir(os.path.join(folder, name)):
            yield from _listing(folder, name)
        else:
            yield name


def _transfer(source: str, target: str, link: bool) -> str:
    if link:
        with suppress(OSError):  # another disk, another machine: copy instead
            os.link(source, target)
            with open(target, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    with fileio.open(source, "rb") as incoming, fileio.open(target, "wb") as outgoing:
        return _copy(incoming, outgoing)


def _copy(incoming: BinaryIO, outgoing: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := incoming.read(PIECE):
        digest.update(piece)
        outgoing.write(piece)
    return digest.hexdigest()
