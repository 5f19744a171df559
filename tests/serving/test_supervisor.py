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
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from text2sql.errors import EngineDead
from text2sql.serving.supervisor import VllmOptions, VllmServer, environment

PROJECT = Path(__file__).parents[2]

STAND_IN = """
import http.server, json, os, pathlib, subprocess, sys, time
port, folder, mode = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
starts = folder / "starts"
starts.write_text(str(int(starts.read_text()) + 1 if starts.exists() else 1))
(folder / "environment").write_text(json.dumps(dict(os.environ)))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
with (folder / "pids").open("a") as file:
    file.write(f"{os.getpid()}\\n{child.pid}\\n")
print("loading weights", flush=True)
if mode == "dies" or (mode == "dies later" and int(starts.read_text()) > 1):
    raise ValueError("no such weights")
if mode == "hangs":
    time.sleep(600)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


class StandIn(VllmServer):
    mode = "serves"

    def command(self) -> list[str]:
        folder = self.options.log.parent
        script = folder / "stand_in.py"
        script.write_text(STAND_IN)
        return [sys.executable, "-I", str(script), str(self.port), str(folder), self.mode]


def stand_in(folder: Path, mode: str = "serves", **options: Any) -> StandIn:
    values = {"python": Path(sys.executable), "log": folder / "vllm.log", "grace_seconds": 5.0, "backoff_seconds": 0.05}
    server = StandIn("model", VllmOptions(**(values | options)))  # type: ignore[arg-type]
    server.mode = mode
    return server


def alive(folder: Path) -> list[int]:
    """Which processes that a stand-in told of still run."""
    found = []
    for pid in (folder / "pids").read_text().split():
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(int(pid))
    return found


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


def supervised(server: VllmServer, work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await server.start()
        try:
            await work()
        finally:
            await server.stop()

    asyncio.run(main())


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
    server = VllmServer("model", VllmOptions(python=tmp_path / "python", log=tmp_path / "vllm.log"))
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


def test_it_is_given_up_after_so_many_failed_starts(tmp_path: Path):
    server = stand_in(tmp_path, "dies later", restarts=2)

    async def work() -> None:
        os.kill(alive(tmp_path)[0], signal.SIGKILL)
        await until(lambda: server.state == "failed")
        assert server.restarts == 2
        assert "no such weights" in server.why

    supervised(server, work)
    assert alive(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_supervisor(tmp_path: Path, number: int):
    program = f"""
        import asyncio, pathlib
        from tests.serving.test_supervisor import stand_in
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
    assert "secret" not in seen.values()
    assert seen["CUDA_VISIBLE_DEVICES"] == ""
    assert seen["HF_TOKEN"] == "token", "a hub model may be gated"
    assert "HF_TOKEN" not in environment(str(tmp_path)), "and a local folder needs none"


def test_row_14_vllm_listens_on_loopback_alone(tmp_path: Path):
    command = VllmServer(tmp_path, VllmOptions(port=8123)).command()
    assert command[command.index("--host") + 1] == "127.0.0.1"
