"""The prompt: real processes in pseudo-terminals and pipes, over an engine whose answers are known and over a model."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import glob
import io
import itertools
import json
import os
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.serving.api import SINGERS
from text2sql.serving.lines import Lines
from text2sql.serving.screen import Screen, inert

ROOT = Path(__file__).parents[2]
SCRIPTED = """
import asyncio, sys
from tests.serving.api import ScriptedEngine
from text2sql.serving.repl import run
from text2sql.serving.settings import server_settings
engine = ScriptedEngine(
    answers={
        "everyone": "SELECT * FROM singer ORDER BY id",
        "older": "SELECT name FROM singer WHERE age > 30",
        "misspelt": "SELECT nam FROM singer",
        "hopeless": "DROP TABLE singer",
        "evil": "SELECT '\\x1b[2Jred\\u202e' AS x FROM singer",
        "best of": ["SELECT nam FROM singer", "SELECT name FROM singer", "SELECT age FROM singer"],
        "like": "SELECT name FROM singer WHERE name LIKE 'a%'",
        "missing table": "SELECT * FROM concert",
    },
    repairs={"misspelt": "SELECT name FROM singer", "hopeless": "DROP TABLE singer"},
    seconds=float(sys.argv[1]),
)
sys.exit(run(server_settings({"model": "scripted", "guard_processes": 1}), engine))
"""
ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-B]|[=>78])")


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return (
        kept
        | {"XDG_STATE_HOME": str(home), "TERM": "xterm-256color", "PYTHONWARNINGS": "error::ResourceWarning"}
        | more
    )


def scripted(seconds: float = 0.0) -> list[str]:
    return [sys.executable, "-c", SCRIPTED, str(seconds)]


def _hears_ctrl_c() -> None:
    """A shell has its jobs in the background ignore it, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _as_in_a_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    _hears_ctrl_c()


class Terminal:
    """A process in a pseudo-terminal of its own."""

    def __init__(self, command: Sequence[str], env: dict[str, str]) -> None:
        self._master, slave = os.openpty()
        termios.tcsetwinsize(slave, (40, 100))
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=env, start_new_session=True,
            preexec_fn=_as_in_a_terminal,  # noqa: PLW1509 - no threads here
        )  # fmt: skip
        os.close(slave)
        self.raw = ""
        self._read_to = 0

    @property
    def text(self) -> str:
        """All that was shown, without escape sequences."""
        return ANSI.sub("", self.raw)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def until(self, words: str, seconds: float = 60.0) -> str:
        """Read until these words have come; what came since the last ones."""
        deadline = time.monotonic() + seconds
        while words not in self.text[self._read_to :]:
            assert time.monotonic() < deadline, f"{words!r} did not come in {self.text[self._read_to :]!r}"
            if not self._more():
                pytest.fail(f"it ended before {words!r}: {self.text[self._read_to :]!r}")
        start, self._read_to = self._read_to, self.text.index(words, self._read_to) + len(words)
        return self.text[start : self._read_to]

    def ask(self, line: str, words: str = "text2sql> ") -> str:
        """Type a line; what comes until these words."""
        self.type(f"{line}\r")
        return self.until(words)

    def ended(self, seconds: float = 30.0) -> int:
        """The exit code, once it has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._more():
            pass
        return self.process.wait(max(deadline - time.monotonic(), 0.1))

    def _more(self) -> bool:
        if not select.select([self._master], [], [], 0.2)[0]:
            return self.process.poll() is None
        try:
            found = os.read(self._master, 65536)
        except OSError:  # Linux: the other side is closed
            return False
        self.raw += found.decode("utf-8", "replace")
        return bool(found)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._master)


@contextlib.contextmanager
def terminal(command: Sequence[str], env: dict[str, str]) -> Iterator[Terminal]:
    found = Terminal(command, env)
    try:
        yield found
    finally:
        found.close()


def piped(text: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        scripted(), input=text, capture_output=True, text=True, cwd=ROOT, env=environment(home, **more), timeout=120,
        check=False,
    )  # fmt: skip


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "the singers.sqlite"
    rows = [
        (1, "Ann", 31),
        (2, "\x1b]0;owned\x07\x9b2J", None),
        (3, "=1+1", 3),
        *((i, f"n{i}", i) for i in range(4, 80)),
    ]
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(SINGERS)
        connection.executemany("INSERT INTO singer VALUES (?, ?, ?)", rows)
    return path


# In a terminal


def test_a_session_in_a_terminal(tmp_path: Path, database: Path):
    (tmp_path / "shops.csv").write_text("id,town\n1,Graz\n")
    before = database.read_bytes()
    with terminal(scripted(), environment(tmp_path)) as it:
        it.until("text2sql> ")
        assert "there is no schema yet" in it.ask("Who is older?")
        assert "/explain" in it.ask("/help")
        assert "schema: 1 table" in it.ask(f"/schema {tmp_path}/shops.csv")
        assert "CREATE TABLE shops (id INTEGER, town TEXT)" in " ".join(it.ask("/schema").split())
        assert "schema: 1 table" in it.ask(f"/db '{database}'")
        said = it.ask("Who is older?")
        assert "SELECT name FROM singer WHERE age > 30" in said
        assert "✓ passed every check" in said
        assert "(50 rows)" in said
        said = it.ask("/explain")
        assert "Keeps rows where age is more than 30" in said
        said = it.ask("everyone")
        assert "(the first 50 of 79 rows)" in said
        assert "NULL" in said
        assert r"\x1b]0;owned\x07\x9b2J" in said
        assert "79 rows written" in it.ask(f"/csv {tmp_path}/rows.csv")
        assert "File exists" in it.ask(f"/csv {tmp_path}/rows.csv")
        assert "after one more try" in it.ask("misspelt")
        assert "only SELECT is allowed" in it.ask("hopeless")
        assert "no table concert" in it.ask("missing table")
        assert "candidates: 3" in it.ask("/n 3")
        said = it.ask("the best of three")
        assert "2 different candidates were judged" in said
        assert "✗ SELECT nam FROM singer" in said
        assert "dialect: postgres" in it.ask("/dialect postgresql")
        assert "ILIKE" in it.ask("like")
        assert "did you mean postgres" in it.ask("/dialect postgrez")
        assert "number from 1 to 8" in it.ask("/n 9")
        assert "number from 1 to 8" in it.ask("/n 0000000031")
        assert "no command /drop" in it.ask("/drop")
        assert "answers are run nowhere" in it.ask("/db off")
        assert "rows)" not in it.ask("everyone")
        assert "does not exist" in it.ask("/db absent.sqlite")
        assert "No such file" in it.ask("/schema absent.sql")
        it.type("/quit\r")
        assert it.ended() == 0
    saved = list(csv.reader(io.StringIO((tmp_path / "rows.csv").read_text("utf-8-sig"))))
    assert saved[:2] + saved[3:4] == [["id", "name", "age"], ["1", "Ann", "31"], ["3", "'=1+1", "3"]]
    assert len(saved) == 80
    assert "\x1b]0;owned" not in it.raw
    assert "\x1b[2J" not in it.raw
    assert database.read_bytes() == before


def test_tables_are_typed_in_over_several_lines(tmp_path: Path):
    with terminal(scripted(), environment(tmp_path)) as it:
        it.until("text2sql> ")
        assert "schema: 1 table" in it.ask("CREATE TABLE a (id INTEGER)")
        it.ask("create table singer (")
        assert "schema: 2 tables" in it.ask("  age INTEGER, name TEXT);")
        assert "✓" in it.ask("Who is older?")


def test_ctrl_c_stops_an_answer_and_ctrl_d_ends(tmp_path: Path):
    with terminal(scripted(seconds=30), environment(tmp_path)) as it:
        it.until("text2sql> ")
        it.ask("CREATE TABLE singer (name TEXT, age INTEGER)")
        it.type("Who is older?\r")
        it.until("…")  # it is being answered
        time.sleep(0.3)
        it.type("\x03")
        it.until("stopped; Ctrl-D ends", seconds=5)
        it.until("text2sql> ")
        it.type("half a line")
        it.until("half a line")
        time.sleep(0.3)  # CPython's readline loses a signal that comes while it still works on a key
        it.type("\x03")
        it.until("stopped")
        it.until("text2sql> ")
        assert "schema: 1 table" not in it.ask("/n 2")
        it.type("\x04")
        assert it.ended() == 0
    assert "Traceback" not in it.text


def test_what_was_typed_is_remembered_by_the_next_session(tmp_path: Path):
    for time_ in range(2):
        with terminal(scripted(), environment(tmp_path)) as it:
            it.until("text2sql> ")
            if time_ == 0:
                it.ask("/n 2")
                it.ask("/db postgresql://me:secret@host/x")
                it.ask("/n 3")
                os.killpg(it.process.pid, signal.SIGKILL)  # nothing is lost
            else:
                it.type("\x1b[A\x1b[A\r")  # up, up
                assert "candidates: 2" in it.until("candidates: 2")
                it.type("/exp\t\r")
                assert "no query to explain" in it.until("no query to explain")
    path = tmp_path / "text2sql" / "history"
    assert path.stat().st_mode & 0o077 == 0
    assert "secret" not in path.read_text()
    assert "secret" not in it.text


def test_a_folder_is_looked_through_once_for_a_tab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for i in range(20):
        (tmp_path / f"{i:02}.sql").touch()
    looked: list[str] = []
    search = glob.glob
    monkeypatch.setattr(glob, "glob", lambda pattern: looked.append(pattern) or search(pattern))
    lines = Lines(Screen(io.StringIO(), io.StringIO(), {}, streams=False), interactive=True)
    lines._readline = SimpleNamespace(get_begidx=lambda: len("/schema "))
    states = itertools.count()
    found = list(iter(lambda: lines._complete(f"{tmp_path}/", next(states)), None))
    assert found == [f"{tmp_path}/{i:02}.sql" for i in range(20)]
    assert len(looked) == 1


def test_nobody_gets_colours_who_wants_none(tmp_path: Path, database: Path):
    for more in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        with terminal(scripted(), environment(tmp_path, **more)) as it:
            it.until("text2sql> ")
            it.ask(f"/db '{database}'")
            assert it.ask("Who is older?").count("SELECT name FROM singer WHERE age > 30") == 1
            assert "SELECT nam FROM singer\r\nSELECT name FROM singer\r\n✓" in it.ask("misspelt")
            it.type("\x04")
            assert it.ended() == 0
        assert re.findall(r"\x1b[^?]", it.raw) == []


def test_a_real_model_in_a_terminal(tiny_model: Path, tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "text2sql.json").write_text(json.dumps({"max_new_tokens": 440}))
    serve = "import typer; from text2sql.cli.serve import serve; typer.run(serve)"
    command = [sys.executable, "-c", serve, "--mode", "local", "--model", str(model)]
    with terminal(command, environment(tmp_path)) as it:
        it.until("text2sql> ", seconds=180)
        assert "model is ready" in it.text
        it.ask("CREATE TABLE ship (age INTEGER);")
        it.type("How old?\r")
        it.until("…")
        it.type("\x03")
        it.until("stopped")
        it.until("text2sql> ")
        assert re.search(r"\d+ tokens", it.ask("How old is it?"))
        it.type("\x04")
        assert it.ended() == 0
    assert "Traceback" not in it.text
    assert "Warning" not in it.text


# In a pipe


def test_questions_come_in_and_queries_go_out(tmp_path: Path, database: Path):
    asked = [f"/db '{database}'", "Who is older?", "", "-- a comment", "everyone", "/explain"]
    done = piped("\n".join(asked), tmp_path)
    assert done.returncode == 0
    assert done.stdout == "SELECT name FROM singer WHERE age > 30;\nSELECT * FROM singer ORDER BY id;\n"
    assert "Gives for each row: every column" in done.stderr
    assert "\x1b" not in done.stderr
    assert "text2sql>" not in done.stderr
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.executescript(done.stdout)  # what it is for


def test_nothing_invalid_goes_out(tmp_path: Path):
    done = piped(f"{SINGERS}\nhopeless\nevil\nWho is older?\n", tmp_path)
    assert done.returncode == 1
    first, second, third = done.stdout.splitlines()
    assert first.startswith("-- no valid answer: only SELECT is allowed")
    assert second == "-- no valid answer: the query holds characters that terminals obey"
    assert third == "SELECT name FROM singer WHERE age > 30;"
    assert piped("Who?\n", tmp_path).returncode == 1
    assert piped("", tmp_path, FORCE_COLOR="1").stderr.count("\x1b") == 0


@pytest.mark.parametrize(
    ("where", "words"),
    [("gone.sqlite", "gone.sqlite"), ("postgresql://u:hunter2@127.0.0.1:1/x?sslpassword=hunter3", "127.0.0.1:1/x")],
)
def test_a_database_that_cannot_be_used_is_told_before_a_model_is_loaded(where: str, words: str, tmp_path: Path):
    command = [sys.executable, "-m", "text2sql", "serve", "--mode", "local", "--model", "assets/tiny-mistral"]
    done = subprocess.run(
        [*command, "--database", where], input=f"{SINGERS}\nWho?\n", capture_output=True, text=True, cwd=ROOT,
        env=environment(tmp_path), timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    [said] = [line for line in done.stderr.splitlines() if "Loading" not in line]
    assert words in said
    assert "hunter" not in said


def test_what_is_not_utf_8_is_refused_and_the_rest_answered(tmp_path: Path):
    done = subprocess.run(
        scripted(), input=f"{SINGERS}\nWer ist ".encode() + b"\xe4lter?\nCREATE TABLE \xe4 (a INT)\nWho is older?\n",
        capture_output=True, cwd=ROOT, env=environment(tmp_path, PYTHONIOENCODING="utf-8:strict"), timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == b"SELECT name FROM singer WHERE age > 30;\n"
    said = done.stderr.decode()
    assert said.count("error: ") == 2
    assert "Traceback" not in said


def test_a_file_that_cannot_be_is_refused_and_the_session_goes_on(tmp_path: Path):
    odd = ["/schema ~nobody-here/x.sql", "/db ~nobody-here/x.sqlite", "/schema a\0b", "/db a\0b"]
    done = piped("\n".join([SINGERS.replace("\n", " "), *odd, "Who is older?"]), tmp_path)
    assert "Traceback" not in done.stderr
    assert done.stderr.count("nobody has such a home folder") == done.stderr.count("leave the NUL out") == 2
    assert (done.returncode, done.stdout) == (1, "SELECT name FROM singer WHERE age > 30;\n")


def test_rows_are_not_written_where_no_file_can_be(tmp_path: Path, database: Path):
    done = piped(f"/db {database}\nWho is everyone?\n/csv ~nobody-here/rows.csv\nWho is older?\n", tmp_path)
    assert "nobody has such a home folder" in done.stderr
    assert done.stdout.endswith("SELECT name FROM singer WHERE age > 30;\n")


def test_ctrl_c_in_a_pipe_ends_all(tmp_path: Path):
    process = subprocess.Popen(
        scripted(seconds=30), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=ROOT, env=environment(tmp_path), preexec_fn=_hears_ctrl_c,  # noqa: PLW1509 - no threads here
    )  # fmt: skip
    assert process.stdin
    assert process.stderr
    process.stdin.write(f"{SINGERS}\nWho is older?\n")
    process.stdin.flush()
    while "schema:" not in process.stderr.readline():
        pass
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode != 0
    assert out == ""


def test_a_reader_that_has_enough_ends_it_quietly(tmp_path: Path):
    shell = f"yes everyone | head -2000 | (echo '{SINGERS}'; cat) | \"$@\" 2>err | head -1; cat err | grep -c Traceback"
    done = subprocess.run(
        ["bash", "-c", shell, "bash", *scripted()], capture_output=True, text=True, cwd=tmp_path,
        env=environment(tmp_path, PYTHONPATH=str(ROOT)), timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.split("\n") == ["SELECT * FROM singer ORDER BY id;", "0", ""]


# Escape sequences


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\tand\nlines é 漢 😀", "plain\tand\nlines é 漢 😀"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\x9b31m", r"\x9b31m"),
        ("a\rb\x08\x07\x00\x7f", r"a\rb\x08\x07\x00\x7f"),
        ("\u202eabc\u2066\u200b\ufeff", r"\u202eabc\u2066\u200b\ufeff"),
        ("\ud800", r"\ud800"),
        ("a\U000e0041", r"a\U000e0041"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, shown: str):
    assert inert(text) == shown
