"""results/: whole or untouched."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from text2sql.errors import OutputError
from text2sql.results import check_writable, explain, export


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    (folder / "inner").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"w" * 1000)
    (folder / "inner" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def listing(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_replaces_its_own_entries_and_leaves_others(tmp_path: Path, model: Path):
    results = tmp_path / "deep" / "results"
    (results / "merged_model").mkdir(parents=True)
    (results / "merged_model" / "old-shard.safetensors").write_text("old")
    (results / "notes.txt").write_text("mine")
    texts = {"merged_model/README.md": "card é", "evaluation.json": "{}"}
    written = export(results, {"merged_model": model}, texts)
    assert written == [results / "merged_model", results / "evaluation.json"]
    assert listing(results) == {
        "merged_model/weights.bin": b"w" * 1000,
        "merged_model/inner/config.json": b"{}",
        "merged_model/README.md": "card é".encode(),
        "evaluation.json": b"{}",
        "notes.txt": b"mine",
    }
    assert listing(model).keys() == {"weights.bin", "inner/config.json"}, "the source has changed"


def test_copies_are_not_links(tmp_path: Path, model: Path):
    export(tmp_path / "results", {"adapter": model}, {})
    (tmp_path / "results" / "adapter" / "weights.bin").write_bytes(b"edited")
    assert (model / "weights.bin").read_bytes() == b"w" * 1000


def test_a_full_disk_leaves_what_was_there(full_disk: Path, model: Path):
    results = full_disk / "results"
    export(results, {"adapter": model}, {"report.html": "first"})
    before = listing(full_disk)
    (model / "weights.bin").write_bytes(b"w" * 2**20)
    with pytest.raises(OutputError, match=r"No space left.*free some space.*output_dir"):
        export(results, {"adapter": model}, {"report.html": "second"})
    assert listing(full_disk) == before
    assert sorted(p.name for p in results.iterdir()) == ["adapter", "report.html"]


def test_a_full_disk_found_out_while_copying(full_disk: Path, model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("text2sql.results._check_space", lambda *_: None)  # as when others fill the disk meanwhile
    (model / "weights.bin").write_bytes(b"w" * 2**20)
    with pytest.raises(OutputError, match="No space left"):
        export(full_disk / "results", {"adapter": model}, {"report.html": "x"})
    assert list(full_disk.iterdir()) == []


@pytest.mark.parametrize(
    ("failure", "raised"),
    [(OSError(errno.EIO, "Input/output error"), OutputError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_rename_that_fails_halfway_is_undone(
    failure: BaseException,
    raised: type[BaseException],
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    results = tmp_path / "results"
    export(results, {"adapter": model}, {"a.json": "1", "b.json": "1"})
    before = listing(results)
    rename = Path.rename
    failures = []

    def failing(self: Path, target: Path) -> Path:
        if (
            self.name == "b.json"
            and self.parent.name.startswith(".incoming")
            and target.parent == results
            and not failures
        ):
            failures.append(self)
            raise failure
        return rename(self, target)

    (model / "weights.bin").write_bytes(b"new")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(raised):
            export(results, {"adapter": model}, {"a.json": "2", "b.json": "2"})
    assert listing(results) == before
    assert not list(results.glob(".incoming*"))


def test_output_dir_that_is_a_file(tmp_path: Path, model: Path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(OutputError, match="results"):
        export(tmp_path / "results", {"adapter": model}, {})
    with pytest.raises(OutputError, match="is a file"):
        check_writable(tmp_path / "results" / "below")
    assert (tmp_path / "results").read_text() == "a file"


def test_check_writable_creates_nothing(tmp_path: Path):
    check_writable(tmp_path / "a" / "b")
    check_writable(Path("results"))
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_runs_are_removed_once_they_are_old(tmp_path: Path, model: Path):
    old, young = tmp_path / "results" / ".incoming-old", tmp_path / "results" / ".incoming-young"
    old.mkdir(parents=True)
    young.mkdir()
    os.utime(old, (time.time() - 7200,) * 2)
    export(tmp_path / "results", {"adapter": model}, {})
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize(
    ("code", "remedy"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "allow writing"), (errno.EROFS, "on a disk")]
)
def test_every_reason_has_its_remedy(code: int, remedy: str):
    message = str(explain(OSError(code, os.strerror(code)), "results"))
    assert remedy in message
    assert os.strerror(code) in message
    assert "\n" not in message
