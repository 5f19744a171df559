from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from text2sql.errors import ExecutionError, UnsafeSqlError
from text2sql.sql.execute import run_query
from text2sql.sql.files import open_database

COUNT = "SELECT COUNT(*) FROM singer"


def make(path: Path, journal: str = "DELETE") -> Path:
    with closing(sqlite3.connect(path)) as writer, writer:
        writer.execute(f"PRAGMA journal_mode = {journal}")
        writer.execute("CREATE TABLE singer (name TEXT, age INTEGER)")
        writer.executemany("INSERT INTO singer VALUES (?, ?)", [(f"n{i}" * 100, i) for i in range(500)])
    return path


def state(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and time of every file, by name."""
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.iterdir()
        if path.is_file()
    }


@contextmanager
def other_process(path: Path) -> Iterator[Callable[[str], None]]:
    """Runs statements on the file in a process of its own, which is killed at the end, before it can tidy up."""
    script = (
        "import sqlite3, sys\n"
        "writer = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "for sql in sys.stdin: print(writer.execute(sql).fetchall(), flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        stdin, stdout = process.stdin, process.stdout

        def run(sql: str) -> None:
            stdin.write(sql + "\n")
            stdin.flush()
            assert stdout.readline().startswith("[")

        yield run
        process.kill()


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
@pytest.mark.parametrize("name", ["a.db", "a b.db", "a?mode=rwc.db", "a#b.db", "a%20b.db", "é.sqlite", "file:a.db"])
def test_a_file_is_read_and_left_as_it_was(tmp_path: Path, name: str, journal: str):
    path = make(tmp_path / name, journal)
    before = state(tmp_path)
    with closing(open_database(path)) as database:
        assert run_query(database, COUNT, 1).rows == [(500,)]
        with pytest.raises(ExecutionError, match="no such column: nobody"):
            run_query(database, 'SELECT name FROM singer WHERE name = "nobody"', 1)
        with pytest.raises(UnsafeSqlError):
            run_query(database, "DELETE FROM singer", 1)
        for sql in ("DELETE FROM singer", "CREATE TABLE t (a)", "PRAGMA user_version = 1", "VACUUM"):
            with pytest.raises(sqlite3.OperationalError):  # without the authorizer too
                database.execute(sql)
        assert state(tmp_path) == before
    assert state(tmp_path) == before


def test_committed_changes_are_seen(tmp_path: Path):
    path = make(tmp_path / "a.db")
    with closing(open_database(path)) as database, other_process(path) as run:
        for left in (499, 498):
            run(f"DELETE FROM singer WHERE rowid = {left}")
            assert run_query(database, COUNT, 1).rows == [(left,)]


def test_a_file_that_another_process_writes_in_wal_mode(tmp_path: Path):
    path = make(tmp_path / "a.db", "WAL")
    with other_process(path) as run:
        run("DELETE FROM singer WHERE age = 0")
        before = state(tmp_path)
        assert set(before) == {"a.db", "a.db-wal", "a.db-shm"}
        with closing(open_database(path)) as database:
            assert run_query(database, COUNT, 1).rows == [(499,)]
            assert state(tmp_path) == before
            run("DELETE FROM singer WHERE age = 1")
            assert run_query(database, COUNT, 1).rows == [(498,)]


def test_what_a_crash_leaves(tmp_path: Path):
    path = make(tmp_path / "a.db", "WAL")
    with other_process(path) as run:
        run("DELETE FROM singer WHERE age < 100")
    before = state(tmp_path)
    assert set(before) == {"a.db", "a.db-wal", "a.db-shm"}
    with closing(open_database(path)) as database:
        assert run_query(database, COUNT, 1).rows == [(400,)]
    assert state(tmp_path) == before
    (tmp_path / "a.db-shm").unlink()
    with pytest.raises(ExecutionError, match=r"changes in a\.db-wal that were not written back"):
        open_database(path)


def test_a_write_that_a_crash_cut_off_is_not_read(tmp_path: Path):
    path = make(tmp_path / "a.db")
    with other_process(path) as run:
        run("PRAGMA cache_size = 5")
        run("BEGIN")
        run("UPDATE singer SET name = 'x'")
    before = state(tmp_path)
    assert set(before) == {"a.db", "a.db-journal"}
    with pytest.raises(ExecutionError, match="left in the middle of a write; open it once with sqlite3"):
        open_database(path)
    assert state(tmp_path) == before


def test_a_locked_file(tmp_path: Path):
    path = make(tmp_path / "a.db")
    with other_process(path) as run:
        run("BEGIN EXCLUSIVE")
        with pytest.raises(ExecutionError, match="being written to by another process"):
            open_database(path)


def test_links_are_followed(tmp_path: Path):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    make(blobs / "0af3")
    (tmp_path / "a.db").symlink_to(blobs / "0af3")
    with closing(open_database(tmp_path / "a.db")) as database:
        assert run_query(database, COUNT, 1).rows == [(500,)]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.db", "does not exist"),
        ("dangling.db", "link to a file that does not exist"),
        ("loop.db", "cannot be opened"),
        ("folder", "is no file"),
        ("pipe", "is no file"),
        ("empty.db", "is empty"),
        ("text.db", "no SQLite 3 file"),
        ("header.db", "is damaged|no SQLite 3 file"),
        ("damaged.db", "is damaged"),
        ("wal.db", "no SQLite 3 file|is damaged"),
        ("x" * 5_000, "cannot be opened"),
        ("a\0b", "cannot be opened"),
    ],
)
def test_what_is_no_database_is_an_error_in_one_line(tmp_path: Path, name: str, reason: str):
    (tmp_path / "dangling.db").symlink_to(tmp_path / "none.db")
    (tmp_path / "loop.db").symlink_to(tmp_path / "loop.db")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("name,age\n")
    whole = make(tmp_path / "whole.db").read_bytes()
    (tmp_path / "header.db").write_bytes(whole[:16] + b"\xff" * 500)
    (tmp_path / "damaged.db").write_bytes(whole[:100] + b"\xff" * 8_000)
    (tmp_path / "wal.db").write_bytes(whole[:18] + b"\x02\x02" + b"\xff" * 500)
    before = state(tmp_path)
    with pytest.raises(ExecutionError, match=reason) as caught:
        open_database(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)
    assert state(tmp_path) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_rights(tmp_path: Path):
    path = make(tmp_path / "a.db")
    path.chmod(0)
    with pytest.raises(ExecutionError, match="may not be read"):
        open_database(path)


def test_text_that_is_no_utf_8_is_read(tmp_path: Path):
    path = make(tmp_path / "a.db")
    with closing(sqlite3.connect(path)) as writer, writer:
        writer.execute("INSERT INTO singer VALUES (CAST(x'636166e9' AS TEXT), -1)")
    with closing(open_database(path)) as database:
        assert run_query(database, "SELECT name FROM singer WHERE age = -1", 1).rows == [
            ("caf\N{REPLACEMENT CHARACTER}",)
        ]


def test_a_view_gives_no_more_than_a_query_may(tmp_path: Path):
    path = make(tmp_path / "a.db")
    with closing(sqlite3.connect(path)) as writer, writer:
        writer.execute("CREATE VIEW named AS SELECT upper(name) AS name FROM singer")
        writer.execute("CREATE VIEW secrets AS SELECT sql FROM sqlite_master")
        writer.execute("CREATE VIEW bomb AS SELECT randomblob(1000000000) AS b")
    with closing(open_database(path)) as database:
        assert len(run_query(database, "SELECT name FROM named", 1).rows) == 500
        for view in ("secrets", "bomb"):
            with pytest.raises(UnsafeSqlError):
                run_query(database, f"SELECT * FROM {view}", 1)
