"""This machine as a target, for real: a gateway process, and scripted servers behind it."""

from __future__ import annotations

import os
import signal
import socket
import stat
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.deployment.local import WRONG, Local
from tests.serving.api import until
from text2sql.config import DeploySection, Settings
from text2sql.data.files import sha256_folder
from text2sql.deployment.local import LocalTarget
from text2sql.deployment.release import Release
from text2sql.deployment.state import last_words, read_json
from text2sql.errors import DeploymentError
from text2sql.serving.settings import server_settings

pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning")]  # the gateway is a child that outlives us


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"dies": 0}, r"it ended with exit code 1: error: the weights are gone; see \S+version-2\.log"),
        ({"asked": 1}, "it breaks off the connection"),
        ({"asked": 12}, "it does not answer a question .503"),
    ],
    ids=["dies", "dies-at-smoke", "dies-when-live"],
)
def test_a_bad_one_leaves_the_old_one_serving(live: Local, plan: dict[str, object], words: str):
    before = (live.pid, live.processes())
    with pytest.raises(DeploymentError, match=rf"version 2 does not go live: .*{words}.*; version 1 serves on"):
        live.deploy("2", **plan)
    assert live.answering() == "1"
    assert (live.pid, live.processes()) == before
    assert len([*live.state.releases.iterdir()]) == 1


def test_row_28_what_answers_otherwise_than_was_judged_does_not_go_live(live: Local):
    """Whatever is different: weights, tokenizer, template. It is asked through its API, before any client is."""
    heard = []
    live.hook = lambda _: heard.append(live.answering())
    try:
        with pytest.raises(DeploymentError, match="it answers 0 of 8 test rows as .* 'SELECT 2' where it was 'SELECT"):
            live.deploy("2", answers=WRONG)
    finally:
        live.hook = None
    assert {*heard, live.answering()} == {"1"}


def test_one_that_dies_just_before_it_goes_live(live: Local):
    [old] = live.servers()

    def kill(line: str) -> None:
        if "are the same" in line:
            [new] = {*live.servers()} - {old}
            os.kill(new, signal.SIGKILL)
            until(lambda: live.servers() == [old], 10)
            time.sleep(0.5)

    live.hook = kill
    try:
        with pytest.raises(DeploymentError, match="new server is not ready: it ended with exit.*version 1 serves on"):
            live.deploy("2")
    finally:
        live.hook = None
    assert live.servers() == [old]
    assert live.answering() == "1"


def test_one_that_is_too_slow_is_ended(live: Local):
    live.change(startup_seconds=1.5)
    try:
        with pytest.raises(DeploymentError, match="not ready within 1.5 s"):
            live.deploy("2", slow=60)
    finally:
        live.change(startup_seconds=20)
    assert live.answering() == "1"


def test_a_damaged_folder_is_refused(live: Local):
    folder = live.model("2")
    with pytest.raises(DeploymentError, match="is damaged: its SHA-256 is"):
        live.target.stage(Release("model", "2", "0" * 64, "", ""), folder, live.told.append)
    assert live.answering() == "1"


def test_the_same_again_changes_nothing(live: Local):
    before = live.processes()
    assert live.deploy("1").parity is None
    assert live.processes() == before


def test_orders_are_for_the_owner_alone_and_not_for_the_public_address(live: Local):
    path = Path(read_json(live.state.state)["socket"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(live.state.path.stat().st_mode) == 0o700
    for order in ("begin", "promote", "restore", "discard", "settle", "stop"):
        reply = httpx.post(f"{live.target.address}/{order}", json={"question": "question 0"}, trust_env=False)
        assert reply.json().get("model") == "1", "the server's own answer"
    assert live.answering() == "1"


def test_two_deployments_do_not_run_at_once(live: Local):
    with live.target.alone(), pytest.raises(DeploymentError, match="another deployment is under way"):
        live.deploy("2")
    assert live.answering() == "1"


def test_what_a_killed_deployment_left_is_put_in_order(live: Local):
    with live.target.alone():
        folder = live.model("2")
        live.target.stage(Release("model", "2", sha256_folder(folder), "", ""), folder, live.told.append)
        assert len(live.servers()) == 2
    until(lambda: live.target._gateway.order("status", method="GET")["candidate"] is None, 20)
    assert live.answering() == "1"


def test_an_address_that_moves_is_refused(live: Local):
    old = live.section
    live.change(port=old.port - 1)
    try:
        with pytest.raises(DeploymentError, match=f"clients are served at http://127.0.0.1:{old.port}; to move"):
            live.deploy("1")
    finally:
        live.section = old
    assert live.answering() == "1"


def test_row_22_no_request_is_dropped_while_the_address_moves(local: Local):
    local.deploy("1", pause=0.05)
    ending, heard, failures = threading.Event(), [], []

    def hammer(fresh: bool) -> None:
        """One client that keeps its connection, or a new one a question."""
        client = httpx.Client(timeout=20, trust_env=False)
        while not ending.is_set():
            try:
                reply = client.post(f"{local.target.address}/generate", json={"question": "question 0"})
                (heard if reply.status_code == 200 else failures).append(reply.json().get("model"))
            except httpx.HTTPError as error:
                failures.append(repr(error))
            if fresh:
                client.close()
                client = httpx.Client(timeout=20, trust_env=False)
        client.close()

    clients = [threading.Thread(target=hammer, args=(i % 2 == 0,)) for i in range(6)]
    for client in clients:
        client.start()
    try:
        local.deploy("2", pause=0.05)
        with pytest.raises(DeploymentError):
            local.deploy("3", answers=WRONG)
        local.target.rollback(local.told.append)
        local.deploy("4", pause=0.05)
        time.sleep(0.5)
    finally:
        ending.set()
        for client in clients:
            client.join()
    assert failures == []
    assert {"1", "2", "4"} == set(heard)
    assert len(heard) > 50


def test_a_port_that_is_taken_is_one_line(local: Local):
    taken = pytest.raises(DeploymentError, match="gateway does not start: .*cannot listen on .*; nothing is served")
    with socket.create_server(("127.0.0.1", local.section.port)), taken:
        local.deploy("1")
    assert local.processes() == []


def test_a_first_one_that_fails_leaves_nothing_behind(local: Local):
    with pytest.raises(DeploymentError, match="nothing is served"):
        local.deploy("1", answers=WRONG)
    until(lambda: local.processes() == [], 30)
    local.deploy("2")
    assert local.answering() == "2"


def test_keys_are_asked_for_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    local = Local(tmp_path)
    local.change(api_keys=tmp_path / "keys.txt")
    with pytest.raises(DeploymentError, match="set OPENAI_API_KEY"):
        local.deploy("1")
    local.section = DeploySection(host="0.0.0.0")  # noqa: S104
    with pytest.raises(DeploymentError, match="can be reached from elsewhere; set deploy.api_keys"):
        local.deploy("1")
    assert local.processes() == []


def test_another_address_than_loopback_needs_keys_in_any_config():
    settings = Settings(deploy=DeploySection(host="192.0.2.1"))
    [problem] = settings.contradictions()
    assert "deploy.host 192.0.2.1 can be reached from elsewhere" in problem
    assert not Settings(deploy=DeploySection(host="::1")).contradictions()


def test_the_command_of_a_real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEXT2SQL_QUERY_ROWS", "10")
    monkeypatch.setenv("TEXT2SQL_BATCH_SIZE", "4")
    section = DeploySection(engine="vllm", server={"batch_size": 8, "log_content": True, "allowed_hosts": '["a.b"]'})
    target = LocalTarget("model", section, Local(tmp_path).state)
    spec = target._spec(Release("m", "3", "d", "", ""), tmp_path)
    words = " ".join(spec.command)
    assert words.endswith(f"-P -m text2sql serve --mode api --host 127.0.0.1 --model {tmp_path} --engine vllm")
    assert spec.environment["HF_HUB_OFFLINE"] == "1"
    assert not {name for name in spec.environment if "TOKEN" in name or name.startswith("AWS_")}
    for name, value in spec.environment.items():
        monkeypatch.setenv(name, value)
    settings = server_settings({})
    assert (settings.served_name, settings.batch_size, settings.query_rows) == ("m", 8, 10)
    assert (settings.log_content, settings.allowed_hosts) == (True, ("a.b",))
    assert settings.vllm_log == tmp_path / "state" / "logs" / "vllm-3.log"
    settings.vllm_log.parent.mkdir(parents=True, exist_ok=True)
    settings.vllm_log.write_text("loading weights\n")
    assert last_words(target._written_last(spec)) == "loading weights"


def test_no_command_line_shows_a_password(local: Local, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEXT2SQL_DATABASE", "postgresql://reader:hunter2@db/shop")
    local.deploy("1")
    assert local.servers()
    assert not [words for words in local.processes() if "hunter2" in words]
    [server] = local.servers()
    assert b"hunter2" in Path(f"/proc/{server}/environ").read_bytes()
    files = [path for path in local.state.path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert [(path.name, stat.S_IMODE(path.stat().st_mode)) for path in files] == [("state.json", 0o600)]
