"""Checkpoints that survive a kill at any moment.

A checkpoint counts only once its marker is on disk, and the marker is written last, after every other file has been
flushed (transformers#35782: a kill in the middle of saving leaves a folder that looks like a checkpoint). The folder
is named after a fingerprint of everything that shapes the training, so a run resumes its own checkpoints only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from text2sql.config import Settings
from text2sql.errors import OutputError, TrainingError

MARKER = "complete.json"
LOCK = ".lock"
PREFIX = "checkpoint-"
NOT_IN_FINGERPRINT = {"checkpoint_dir", "save_total_limit", "processes", "gradient_checkpointing"}
"""Settings that a run may go on without: the numbers are the same, so one whose memory ran out can checkpoint."""


def fingerprint(settings: Settings, rows: Iterable[dict[str, str]]) -> str:
    """16 hex digits over model, LoRA and training settings, the training code, and the text of every row."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):  # other code would not have got where the checkpoint is
        digest.update(source.read_bytes())
    sections: dict[str, Any] = {
        "model": settings.model.model_dump(mode="json"),
        "lora": settings.lora.model_dump(mode="json"),
        "training": settings.training.model_dump(mode="json", exclude=NOT_IN_FINGERPRINT),
        "files": _listing(Path(settings.model.name)),
    }
    digest.update(json.dumps(sections, sort_keys=True).encode())
    for row in rows:
        digest.update(json.dumps([row["prompt"], row["completion"]]).encode())
    return digest.hexdigest()[:16]


def _listing(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes in a local model folder; its content is for model.sha256 to vouch for."""
    if not folder.is_dir():
        return []
    return sorted((path.name, path.stat().st_size) for path in folder.iterdir() if path.is_file())


class CheckpointStore:
    """The checkpoints of one training run, in `folder`."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training the same; the lock is gone with the process, however that ends.

        Raises:
            TrainingError: another process holds it.
        """
        with (self.folder / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TrainingError(
                    f"another run is training just this in {self.folder}; wait for it, or set another "
                    "training.checkpoint_dir"
                ) from None
            yield

    def last_complete(self) -> Path | None:
        """The newest complete checkpoint; incomplete ones are deleted on the way."""
        complete = []
        for path in self._checkpoints():
            if is_complete(path):
                complete.append(path)
            else:
                shutil.rmtree(path, ignore_errors=True)
        return complete[-1] if complete else None

    def seal(self, step: int) -> None:
        """Flush the checkpoint of `step` to disk, mark it complete, and only then delete the oldest ones."""
        path = self.folder / f"{PREFIX}{step}"
        sizes = {}
        for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
            _flush(file)
            sizes[file.relative_to(path).as_posix()] = file.stat().st_size
        draft = path / f".{MARKER}"
        draft.write_text(json.dumps({"step": step, "sizes": sizes}), encoding="utf-8")
        _flush(draft)
        draft.rename(path / MARKER)
        _flush(path)
        _flush(self.folder)
        for old in self._checkpoints()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def clear(self) -> None:
        """Delete every checkpoint and the rows' tokens, and the folder if nothing else is in it."""
        for path in self._checkpoints():
            shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob("*.arrow"):
            path.unlink(missing_ok=True)
        (self.folder / LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _checkpoints(self) -> list[Path]:
        found = [path for path in self.folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
        return sorted(found, key=lambda path: int(path.name.removeprefix(PREFIX)))


def is_complete(checkpoint: Path) -> bool:
    """Whether the marker is there and every file still has the size it had when it was sealed."""
    try:
        sizes = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))["sizes"]
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def trained_steps(checkpoint: Path) -> tuple[int, int]:
    """(steps done, steps planned) as the Trainer wrote them."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return int(state["global_step"]), int(state["max_steps"])


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn what the writers below raise when a disk is full or read-only into an OutputError of one line.

    safetensors and torch have exceptions of their own for a failed write, and neither carries an errno.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        torch_writer = any(word in str(error) for word in ("PytorchStreamWriter", "inline_container", "iostream error"))
        if isinstance(error, RuntimeError) and not torch_writer:
            raise
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        full = full or torch_writer or any(word in str(error) for word in ("No space left", "File too large"))
        reason = f"the disk is full ({_free(target)})" if full else " ".join(str(error).split())[:200]
        raise OutputError(
            f"cannot write {target}: {reason or type(error).__name__}; free some space there, or point "
            "training.checkpoint_dir and output_dir to another disk"
        ) from error


def _free(target: Path) -> str:
    existing = next((path for path in (target, *target.absolute().parents) if path.exists()), Path("/"))
    return f"{shutil.disk_usage(existing).free / 2**20:,.0f} MiB free"


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class StopRequest:
    """Remembers a SIGTERM while it is entered, so that training can stop at the end of a step.

    Outside the main thread, where Python allows no signal handlers, it never fires.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: Any = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
