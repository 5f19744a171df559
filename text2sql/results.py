"""What a run leaves behind on disk: adapter, merged model with its card, figures and report, all of them or none."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from text2sql.data.files import THREADS, list_files, new_folder
from text2sql.errors import OutputError
from text2sql.progress import working

STALE_SECONDS = 3600
"""A hidden `.incoming-…` of this age was left by a killed run; a younger one may belong to a run beside this one."""


def check_writable(output_dir: Path) -> None:
    """Find out before hours of training whether results could be written there; creates nothing.

    Raises:
        OutputError: `output_dir` is not a folder, or cannot be written to or created.
    """
    existing = output_dir
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise OutputError(f"output_dir = {str(output_dir)!r}: {existing} is a file; move it, or set another output_dir")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(
            f"output_dir = {str(output_dir)!r}: no permission to write to {existing}; set another output_dir"
        )


def export(output_dir: Path, folders: Mapping[str, Path], texts: Mapping[str, str]) -> list[Path]:
    """Replace the named entries of `output_dir` together; whatever else is in it stays.

    Args:
        folders: folders to copy, by the name they get.
        texts: files to write, by relative path; one that lies in a folder of `folders` is added to the copy.

    Returns:
        The entries written: folders, then files that lie in none of them.

    Raises:
        OutputError: they cannot be written; `output_dir` is then as it was.
    """
    existed = output_dir.exists()
    try:
        _remove_stale(output_dir)
        with working(f"writing {output_dir}"), new_folder(output_dir) as incoming, new_folder(output_dir) as previous:
            _check_space(incoming, folders, texts)
            for name, source in folders.items():
                _copy_folder(source, incoming / name)
            for name, text in texts.items():
                (incoming / name).parent.mkdir(parents=True, exist_ok=True)
                (incoming / name).write_text(text, encoding="utf-8")
            names = list(dict.fromkeys([*folders, *(Path(name).parts[0] for name in texts)]))
            _swap(incoming, output_dir, previous, names)
    except BaseException as error:
        if not existed:
            shutil.rmtree(output_dir, ignore_errors=True)
        if isinstance(error, OSError):
            raise explain(error, output_dir) from error
        raise
    return [output_dir / name for name in names]


def explain(error: OSError, place: Path | str) -> OutputError:
    """One line for a write that failed: what, where, and what to do."""
    reason = error.strerror or str(error)
    remedy = {
        errno.ENOSPC: "free some space, or set another output_dir",
        errno.EDQUOT: "free some of your quota, or set another output_dir",
        errno.EACCES: "allow writing there, or set another output_dir",
        errno.EPERM: "allow writing there, or set another output_dir",
        errno.EROFS: "set an output_dir on a disk that can be written to",
    }.get(error.errno or 0, "set another output_dir")
    return OutputError(f"cannot write to {place}: {reason}; {remedy}, and repeat the command: finished steps are kept")


def _check_space(incoming: Path, folders: Mapping[str, Path], texts: Mapping[str, str]) -> None:
    """Refuse what cannot fit before the disk is filled up for everybody else."""
    needed = sum((source / path).stat().st_size for source in folders.values() for path in list_files(source))
    needed += sum(len(text.encode()) for text in texts.values())
    free = shutil.disk_usage(incoming).free
    if needed > free:
        detail = f"No space left: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB free"
        raise OSError(errno.ENOSPC, detail)


def _copy_folder(source: Path, target: Path) -> None:
    """Copies, never links: users edit what lies in results/, and the run's own artifacts must not change with it."""
    files = list_files(source)
    for folder in {target, *((target / path).parent for path in files)}:
        folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(lambda path: shutil.copyfile(source / path, target / path), files):
            pass  # the loop raises what a thread raised


def _swap(incoming: Path, output_dir: Path, previous: Path, names: list[str]) -> None:
    """Rename new entries into place and old ones out of it; a failure puts everything back."""
    undo: list[tuple[Path, Path]] = []
    try:
        for name in names:
            place = output_dir / name
            if os.path.lexists(place):
                place.rename(previous / name)
                undo.append((previous / name, place))
            (incoming / name).rename(place)
            undo.append((place, incoming / name))
    except BaseException:  # Ctrl-C too must not leave half of the old and half of the new
        for now, before in reversed(undo):
            with suppress(OSError):  # one that stays behind must not keep the others from going back
                now.rename(before)
        raise


def _remove_stale(output_dir: Path) -> None:
    for folder in output_dir.glob(".incoming-*"):
        if time.time() - folder.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
