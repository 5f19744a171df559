"""Servers and gateways that are killed: what was live serves again, one at a time, and nothing else is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from tests.deployment.local import Local, promoted
from tests.serving.api import until
from text2sql.deployment.state import is_alive, read_json, write_json

pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning")]  # the gateway is a child that outlives us


def test_a_gateway_that_is_killed_goes_on_with_what_was_verified(local: Local):
    local.deploy("1")
    promoted(local, "2")
    os.kill(local.pid, signal.SIGKILL)
    until(lambda: local.processes() == [], 30)
    status = local.target.status()
    assert status.current is not None
    assert status.current.release.version == "1"


def test_after_a_crash_one_server_takes_the_place_of_the_one_that_was_left(local: Local):
    local.deploy("1", lingers=2)
    [old] = local.servers()
    os.kill(local.pid, signal.SIGKILL)
    assert local.servers() == [old], "it outlives the gateway for a moment"
    ending, seen = threading.Event(), [1]

    def count() -> None:
        while not ending.is_set():
            seen.append(len(local.servers()))
            time.sleep(0.02)

    counting = threading.Thread(target=count)
    counting.start()
    try:
        assert local.deploy("1", lingers=2).parity is None, "it is what was live"
    finally:
        ending.set()
        counting.join()
    assert max(seen) == 1
    assert local.servers() != [old]
    assert local.answering() == "1"
    os.kill(local.pid, signal.SIGKILL)
    local.target.stop(local.told.append)
    assert local.servers() == [], "also of those nothing is left"


def test_after_a_crash_what_was_live_serves_while_another_is_tried(local: Local):
    local.deploy("1")
    os.kill(local.pid, signal.SIGKILL)
    heard = []
    local.hook = lambda line: heard.append(local.answering()) if "smoke" in line else None
    local.deploy("2")
    assert heard == ["1"]
    assert local.answering() == "2"


def test_nothing_is_left_where_the_path_of_the_socket_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    local = Local(tmp_path / ("long" * 20))
    local.folder.mkdir()
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # tmp_path may be long by itself
        monkeypatch.setenv("TMPDIR", short)
        local.deploy("1")
        os.kill(local.pid, signal.SIGKILL)
        until(lambda: local.processes() == [], 30)
        local.deploy("1")
        assert len([*Path(short).iterdir()]) == 1
        local.target.stop(local.told.append)
        assert [*Path(short).iterdir()] == []


def test_service_returns_by_itself(local: Local):
    """The server is killed, then the gateway; the first comes back alone, the second with the next command."""
    local.deploy("1")
    local.deploy("2")
    until(lambda: len(local.servers()) == 1, 30)  # the old one may still be ending
    os.kill(local.servers()[0], signal.SIGKILL)
    until(lambda: local.answering() == "2", 30)
    status = local.target.status()
    assert status.current is not None
    assert status.current.restarts >= 1

    os.kill(local.pid, signal.SIGKILL)
    until(lambda: local.processes() == [], 30)
    status = local.target.status()
    assert status.detail.startswith("the gateway does not run")
    assert status.current is not None
    assert status.current.state == "stopped"
    assert local.target.rollback(local.told.append).version == "1"
    assert local.answering() == "1"


def test_a_number_that_was_given_again_is_not_killed(local: Local):
    local.state.make()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger:
        write_json(local.state.state, {"pid": stranger.pid, "started": "1", "socket": "", "host": "x", "port": 1})
        local.target.stop(local.told.append)
        assert local.told[-1] == "nothing runs"
        assert stranger.poll() is None
        stranger.kill()
    write_json(local.state.state, {})


def test_it_outlives_who_deployed_it(local: Local):
    local.deploy("1")
    assert os.getsid(local.pid) == local.pid
    assert is_alive(local.pid, read_json(local.state.state)["started"])
