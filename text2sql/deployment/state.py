"""What outlives a process: the state folder of a deployment, its lock, and who is who among processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from text2sql.data.files import combined_checksum, folder_checksums, list_files, new_folder, sha256_folder
from text2sql.errors import DeploymentError, OutputError

LOCK_SECONDS = 3.0
"""How long a deployment waits for another: the gateway holds the lock for a moment now and then."""
LAST_WORDS_CHARS = 300


@dataclass(frozen=True)
class StateFolder:
    """Everything that one deployment keeps; nobody else may read it."""

    path: Path

    def make(self) -> None:
        """Raises:
        OutputError: it cannot be made.
        """
        try:
            for folder in (self.path, self.releases, self.logs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot keep the deployment's state in {self.path} ({error.strerror}); set XDG_STATE_HOME"
            ) from None

    @property
    def releases(self) -> Path:
        """A model folder a release, called by its checksum."""
        return self.path / "releases"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def plan(self) -> Path:
        """What the gateway is told when it starts."""
        return self.path / "plan.json"

    @property
    def state(self) -> Path:
        """What the gateway writes: who it is, and what serves."""
        return self.path / "state.json"

    @property
    def lock(self) -> Path:
        return self.path / "deploy.lock"

    @property
    def servers_lock(self) -> Path:
        """Held by a gateway, and by what keeps its servers for as long as one of those is left."""
        return self.path / "servers.lock"

    @property
    def marked(self) -> Path:
        """Which version was last marked as the one that serves."""
        return self.path / "marked.json"


def state_folder(name: str) -> StateFolder:
    """Of the deployment of a model: $XDG_STATE_HOME/text2sql/<name>."""
    base = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser().resolve()
    return StateFolder(base / "text2sql" / re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-"))


@contextlib.contextmanager
def locked(path: Path, seconds: float = LOCK_SECONDS, busy: str = "another deployment is under way") -> Iterator[int]:
    """Alone in the world of this file, until the block has ended and every process that inherited its descriptor.

    Raises:
        DeploymentError: somebody else is (`busy`), and does not come to an end within `seconds`.
    """
    with path.open("a") as file:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DeploymentError(f"{busy} ({path} is locked); wait for its end, and try again") from None
                time.sleep(0.05)
        yield file.fileno()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all, also when the power fails; readable by its owner alone."""
    draft = path.with_suffix(f".{os.getpid()}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - takes the descriptor, which has the mode
        json.dump(value, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote; {} where there is nothing.

    Raises:
        DeploymentError: it is damaged.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DeploymentError(f"{path} cannot be read ({error}); remove it, and deploy again") from None
    return found if isinstance(found, dict) else {}


def started_at(pid: int) -> str | None:
    """When a process started, in the kernel's own unit; None where there is no such process, or only its remains.

    Together with the number it names a process for good: numbers are given again.
    """
    if not Path("/proc/self/stat").exists():  # no Linux: `ps` knows
        import subprocess

        told = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        ).stdout
        return told.strip() or None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def is_alive(pid: int, started: str) -> bool:
    """Whether this very process lives."""
    return pid > 0 and started_at(pid) == started


def keep_release(folder: Path, digest: str, releases: Path) -> Path:
    """A copy of a model folder that no artifact store, cache or hub can take away; checked byte for byte.

    Raises:
        DeploymentError: the folder is not what its checksum says.
        OutputError: it cannot be written.
    """
    place = releases / digest
    if place.is_dir():
        if sha256_folder(place) == digest:
            return place
        shutil.rmtree(place)
    try:
        files = list_files(folder)
        needed = sum((folder / path).stat().st_size for path in files)
        free = shutil.disk_usage(releases).free
        if needed > free:
            raise OutputError(f"{releases}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB free; free some")
        with new_folder(releases) as draft:
            for path in files:
                (draft / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / path, draft / path)
            found = combined_checksum(folder_checksums(draft))
            if found != digest:
                raise DeploymentError(
                    f"the model in {folder} is damaged: its SHA-256 is {found[:12]}… and not {digest[:12]}…"
                )
            draft.rename(place)
    except OSError as error:
        raise OutputError(f"cannot copy the model to {releases} ({error.strerror or error})") from error
    return place


def last_words(log: Path, silent: str = "it said nothing") -> str:
    """The last error in a log, else its last line, cut to what fits into a message; `silent` where it has none."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 65_536, 0))
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    except OSError:
        lines = []
    events = [_event(line) for line in lines[-200:] if line]
    errors = [said for said, is_error in events if is_error]
    said = [said for said, _ in events]
    return ((errors or said or [silent])[-1])[-LAST_WORDS_CHARS:]


def _event(line: str) -> tuple[str, bool]:
    """What a line says, out of JSON where the server logs in that, and whether it is an error."""
    try:
        record = json.loads(line)
        said, level = str(record["event"]), str(record.get("level"))
    except (ValueError, TypeError, KeyError):
        said, level = line, ""
    return said, level in {"error", "critical"} or "error:" in said.lower()
