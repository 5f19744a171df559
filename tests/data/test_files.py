"""Checksums name content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from text2sql.data.files import folder_checksums, new_folder, sha256_file, sha256_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "one" / "b").mkdir(parents=True)
    (tmp_path / "one" / "a.txt").write_text("alpha")
    (tmp_path / "one" / "b" / "c.txt").write_text("gamma")
    return tmp_path / "one"


def test_a_file(folder: Path):
    assert sha256_file(folder / "a.txt") == hashlib.sha256(b"alpha").hexdigest()


def test_a_folders_own_name_and_hidden_files_do_not_count(folder: Path):
    before = sha256_folder(folder)
    moved = folder.rename(folder.with_name("two"))
    (moved / ".cache").mkdir()
    (moved / ".cache" / "x").write_text("x")
    assert sha256_folder(moved) == before
    assert list(folder_checksums(moved)) == ["a.txt", "b/c.txt"]


def test_every_name_and_byte_counts(folder: Path):
    seen = {sha256_folder(folder)}
    (folder / "a.txt").write_text("alphA")
    seen.add(sha256_folder(folder))
    (folder / "a.txt").rename(folder / "A.txt")
    seen.add(sha256_folder(folder))
    (folder / "empty").write_text("")
    seen.add(sha256_folder(folder))
    assert len(seen) == 4


def test_a_new_folder_is_gone_unless_renamed(tmp_path: Path):
    with new_folder(tmp_path / "parent") as kept:
        (kept / "x").write_text("x")
        kept.rename(tmp_path / "kept")
    with pytest.raises(KeyError), new_folder(tmp_path / "parent") as lost:  # noqa: PT012
        (lost / "x").write_text("x")
        raise KeyError
    assert (tmp_path / "kept" / "x").exists()
    assert list((tmp_path / "parent").iterdir()) == []
