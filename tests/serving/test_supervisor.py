"""A server that is watched: starts, deaths and restarts, and no process left whatever happens to whom.

Most tests put a small HTTP server with children of its own in vLLM's place; it is as real, and starts at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.serving.vllm_stand_in import alive, stand_in, supervised
from text2sql.errors import EngineDead
from text2sql.serving import keeper
from text2sql.serving.checkpoint import Checkpoint
from text2sql.serving.supervisor import VllmOptions, VllmServer

PROJECT = Path(__file__).parents[2]


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("it did not happen in time")
        time.sleep(0.02)


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("it did not happen in time")
        await asyncio.sleep(0.02)


def answers(server: VllmServer) -> bool:
    try:
        return httpx.get(f"{server.url}/health", trust_env=False).is_success
    except httpx.TransportError:
        return False


def test_it_starts_answers_and_leaves_nothing_behind(tmp_path: Path):
    told: list[str] = []
    server = stand_in(tmp_path)
    server._progress = told.append

    async def work() -> None:
        assert server.state == "up"
        assert answers(server)
        assert len(alive(tmp_path)) == 2

    supervised(server, work)
    assert alive(tmp_path) == []
    assert server.state == "stopped"
    assert told[-1].startswith("vLLM answers after")


def test_a_proxy_in_the_environment_is_not_asked_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    async def work() -> None:
        return

    supervised(stand_in(tmp_path, startup_seconds=10.0), work)


def test_a_death_at_the_start_is_one_line_with_its_last_words(tmp_path: Path):
    server = stand_in(tmp_path, "dies")
    with pytest.raises(EngineDead, match=r"exit code 1 .*: ValueError: no such weights; see .*vllm\.log"):
        asyncio.run(server.start())
    assert server.state == "failed"
    assert alive(tmp_path) == []


def test_a_start_has_a_time_limit(tmp_path: Path):
    server = stand_in(tmp_path, "hangs", startup_seconds=1.0)
    with pytest.raises(EngineDead, match="did not answer within 1 s: loading weights"):
        asyncio.run(server.start())
    assert alive(tmp_path) == []


def test_without_its_environment_it_says_how_to_get_it(tmp_path: Path):
    options = VllmOptions(python=tmp_path / "python", log=tmp_path / "vllm.log")
    server = VllmServer(lambda: Checkpoint("model", tmp_path), options)
    with pytest.raises(EngineDead, match="run make vllm"):
        asyncio.run(server.start())


@pytest.mark.parametrize("victim", ["server", "keeper"])
def test_killed_it_comes_back_at_the_same_address(tmp_path: Path, victim: str):
    server = stand_in(tmp_path)

    async def work() -> None:
        assert server._keeper is not None
        before = alive(tmp_path)
        os.kill(before[0] if victim == "server" else server._keeper.pid, signal.SIGKILL)
        await until(lambda: server.restarts == 1 and server.state == "up")
        assert answers(server)
        now = alive(tmp_path)
        if victim == "server":
            assert not set(before) & set(now), "nothing of the first one is left"
        else:
            assert before[0] not in now, "the server itself dies with its keeper"

    supervised(server, work)
    if victim == "server":
        assert alive(tmp_path) == []
    for pid in alive(tmp_path):  # both guardians killed at once: a child that fled its session is out of reach
        os.kill(pid, signal.SIGKILL)


def test_what_was_up_once_is_never_given_up_and_the_pauses_grow(tmp_path: Path):
    server = stand_in(tmp_path, "dies for a while", backoff_seconds=0.01)
    told: list[str] = []
    server._progress = told.append

    async def work() -> None:
        os.kill(alive(tmp_path)[0], signal.SIGKILL)
        await until(lambda: server.restarts > 2 and server.state == "down")
        assert "no such weights" in server.why
        await until(lambda: server.state == "up", 60)
        assert server.restarts == 5
        assert answers(server)

    supervised(server, work)
    pauses = [float(line.split()[-2]) for line in told if "starting it again in" in line]
    assert pauses == [0.01 * 2**death for death in range(5)]
    assert alive(tmp_path) == []


def test_one_that_cannot_be_launched_for_a_while_comes_back(tmp_path: Path):
    """No process at all: as where memory or files run out."""
    server = stand_in(tmp_path)
    failures = [OSError(12, "Cannot allocate memory"), OSError(24, "Too many open files")]
    launch = server._launch

    async def flaky() -> None:
        if failures:
            raise failures.pop()
        await launch()

    async def work() -> None:
        server._launch = flaky  # type: ignore[method-assign]
        os.kill(alive(tmp_path)[0], signal.SIGKILL)
        await until(lambda: server.restarts == 3 and server.state == "up")
        assert answers(server)

    supervised(server, work)


@pytest.mark.parametrize("healthy_seconds", [0.0, 60.0])
def test_one_that_dies_soon_after_each_start_waits_longer_each_time(tmp_path: Path, healthy_seconds: float):
    server = stand_in(tmp_path, backoff_seconds=0.02, healthy_seconds=healthy_seconds)
    told: list[str] = []
    server._progress = told.append

    async def work() -> None:
        for death in range(1, 4):
            os.kill(alive(tmp_path)[0], signal.SIGKILL)
            await until(lambda: server.restarts == death and server.state == "up")  # noqa: B023

    supervised(server, work)
    pauses = [float(line.split()[-2]) for line in told if "starting it again in" in line]
    assert pauses == ([0.02, 0.04, 0.08] if healthy_seconds else [0.02] * 3)
    assert all("exit code 137" in line for line in told if "starting it again in" in line)


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("stopped", "did not answer its health check for 1 s"),
        ("makes no token", "made no token for 1 s, with 2 requests in work"),
    ],
)
def test_row_21_one_that_hangs_is_started_again(tmp_path: Path, mode: str, why: str):
    server = stand_in(tmp_path, mode, hang_seconds=1.0, grace_seconds=0.5)
    told: list[str] = []
    server._progress = told.append

    async def work() -> None:
        before = alive(tmp_path)
        if mode == "stopped":
            os.kill(before[0], signal.SIGSTOP)
        await until(lambda: server.restarts == 1 and server.state == "up")
        assert answers(server)
        assert not set(before) & set(alive(tmp_path)), "nothing of the first one is left"
        await asyncio.sleep(1.5)
        assert server.restarts == 1

    supervised(server, work)
    assert [why in line for line in told if "starting it again in" in line] == [True]
    assert alive(tmp_path) == []


@pytest.mark.parametrize("mode", ["serves", "works", "loads slowly"])
def test_one_that_is_idle_at_work_or_slow_to_load_is_let_be(tmp_path: Path, mode: str):
    server = stand_in(tmp_path, mode, hang_seconds=0.6)
    supervised(server, lambda: asyncio.sleep(2))
    assert (tmp_path / "starts").read_text() == "1"


@pytest.mark.parametrize(
    ("code", "command"),
    [
        (0, "pass"),
        (3, "import sys; sys.exit(3)"),
        (137, "import os; os.kill(os.getpid(), 9)"),
        (139, "import os, signal; signal.signal(11, signal.SIG_DFL); os.kill(os.getpid(), 11)"),
    ],
)
def test_the_keeper_ends_as_its_command_did(tmp_path: Path, code: int, command: str):
    words = [sys.executable, "-I", keeper.__file__, str(tmp_path / "log"), "1", sys.executable, "-c", command]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.wait(30) == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_supervisor(tmp_path: Path, number: int):
    program = f"""
        import asyncio, pathlib, signal
        from tests.serving.test_supervisor import stand_in
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's jobs in the background ignore it
        async def main():
            await stand_in(pathlib.Path({str(tmp_path)!r})).start()
            print("up", flush=True)
            await asyncio.sleep(600)
        asyncio.run(main())
        """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"up\n"
    assert len(alive(tmp_path)) == 2
    process.send_signal(number)
    process.wait(20)
    wait_until(lambda: alive(tmp_path) == [])


def test_it_gets_nothing_of_our_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import json

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("TEXT2SQL_API_KEYS", "secret")
    monkeypatch.setenv("HF_TOKEN", "token")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    async def nothing() -> None: ...

    supervised(stand_in(tmp_path), nothing)
    seen = json.loads((tmp_path / "environment").read_text())
    assert {"secret", "token"} & set(seen.values()) == set()
    assert seen["CUDA_VISIBLE_DEVICES"] == ""
    assert seen["HF_HUB_OFFLINE"] == "1", "what is served lies on this machine, and a restart needs no hub"
