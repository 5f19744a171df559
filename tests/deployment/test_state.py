"""What outlives a process: locks, files written whole, processes told apart, models kept."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from text2sql.data.files import sha256_folder
from text2sql.deployment.state import (
    StateFolder,
    is_alive,
    keep_release,
    last_words,
    locked,
    read_json,
    started_at,
    state_folder,
    write_json,
)
from text2sql.errors import DeploymentError, OutputError


def test_the_folder_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder = state_folder("my model/../7b")
    assert folder.path == tmp_path / "text2sql" / "my-model-..-7b"
    folder.make()
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="set XDG_STATE_HOME"):
        StateFolder(tmp_path / "file" / "state").make()


def test_only_one_holds_the_lock_and_death_frees_it(tmp_path: Path):
    path = tmp_path / "lock"
    script = f"import sys, time; sys.path.insert(0, {str(Path.cwd())!r})\n"
    script += "from pathlib import Path; from text2sql.deployment.state import locked\n"
    script += f"with locked(Path({str(path)!r})): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(DeploymentError, match="another deployment is under way"), locked(path, 0.1):
            pytest.fail("two at once")
        other.kill()
    with locked(path, 0.1):
        pass


def test_json_is_whole_and_private(tmp_path: Path):
    path = tmp_path / "state.json"
    assert read_json(path) == {}
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [*tmp_path.iterdir()] == [path]
    path.write_text("{")
    with pytest.raises(DeploymentError, match="remove it"):
        read_json(path)


def test_a_process_is_known_by_its_number_and_its_start():
    mine = started_at(os.getpid())
    assert mine is not None
    assert is_alive(os.getpid(), mine)
    assert not is_alive(os.getpid(), "1"), "the number was given again"
    assert not is_alive(0, "")
    child = subprocess.Popen([sys.executable, "-c", ""])
    born = started_at(child.pid) or ""
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(child.pid, born), "remains are not alive"
    child.wait()


def test_row_24_a_kept_model_needs_nobody(tmp_path: Path):
    """Nothing of it is shared with where it came from: that may be changed in place, or go."""
    source, releases = tmp_path / "source", tmp_path / "releases"
    (source / "deep").mkdir(parents=True)
    releases.mkdir()
    (source / "deep" / "weights").write_bytes(b"1234")
    digest = sha256_folder(source)
    kept = keep_release(source, digest, releases)
    assert (kept.name, sha256_folder(kept)) == (digest, digest)
    with (source / "deep" / "weights").open("r+b") as file:
        file.write(b"x")
    assert sha256_folder(kept) == digest
    assert keep_release(tmp_path / "gone", digest, releases) == kept
    (kept / "deep" / "weights").write_bytes(b"damaged")
    with pytest.raises(DeploymentError, match="is damaged"):
        keep_release(source, digest, releases)
    assert [*releases.iterdir()] == []


def test_the_last_words_of_a_log(tmp_path: Path):
    log = tmp_path / "log"
    assert last_words(log) == "it said nothing"
    log.write_text("starting\nerror: no weights\nshutting down\n\n")
    assert last_words(log) == "error: no weights"
    log.write_text("starting\n" + "x" * 1000 + "\n")
    assert last_words(log) == "x" * 300
    log.write_text('{"event": "no room", "level": "error"}\n{"event": "vLLM is starting", "level": "info"}\n')
    assert last_words(log) == "no room"
    log.write_text('{"event": "vLLM is starting", "level": "info"}\n')
    assert last_words(log) == "vLLM is starting"
    log.write_text('[1]\n{"level": "info"}\n')
    assert last_words(log) == '{"level": "info"}'
