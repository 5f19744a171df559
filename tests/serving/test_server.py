"""The process: settings, commands, logs, signals, a real model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.api import ScriptedEngine, asked, running, until
from text2sql.errors import ConfigError, ModelError
from text2sql.serving.settings import ServerSettings, assignments, server_settings

PROJECT = Path(__file__).parents[2]
START = (
    "import sys; import typer; from text2sql.cli.serve import serve; app = typer.Typer(); app.command()(serve); app()"
)
SLOW = """
import asyncio, sys
sys.path.insert(0, ".")
from tests.serving.api import ScriptedEngine
from text2sql.serving.server import serve
from text2sql.serving.settings import ServerSettings
port, delay, *content = sys.argv[1:]
settings = ServerSettings(port=int(port), guard_processes=1, shutdown_delay=float(delay), log_content=bool(content))
sys.exit(serve(settings, ScriptedEngine(seconds=1.0)))
"""


class Process:
    """A server in a process of its own; its log lines as they come."""

    def __init__(self, *command: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=PROJECT,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=lambda: self.lines.extend(iter(self.process.stderr.readline, "")))
        self._reader.start()

    def told(self, event: str) -> dict[str, Any]:
        until(lambda: self._find(event) or self.process.poll() is not None)
        found = self._find(event)
        assert found, "".join(self.lines)
        return found

    def end(self) -> int:
        code = self.process.wait(30)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def _find(self, event: str) -> dict[str, Any] | None:
        for line in list(self.lines):
            if line.startswith("{") and json.loads(line).get("event") == event:
                return json.loads(line)
        return None


@pytest.fixture
def started() -> Iterator[list[Process]]:
    processes: list[Process] = []
    yield processes
    for one in processes:
        if one.process.poll() is None:
            one.process.kill()
            one.end()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def test_sigterm_finishes_what_was_taken_and_exits_with_0(started: list[Process]):
    port = free_port()
    server = Process("-c", SLOW, str(port), "0.7")
    started.append(server)
    url = server.told("listening")["url"]
    server.told("ready")
    answers: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{url}/generate", json=asked(), timeout=20, trust_env=False))
    )
    asking.start()
    until(lambda: "text2sql_engine_running 1.0" in httpx.get(f"{url}/metrics", trust_env=False).text)
    server.process.send_signal(signal.SIGTERM)
    server.told("ending")
    unready = httpx.get(f"{url}/readyz", trust_env=False)
    assert unready.status_code == 503
    assert "shutting down" in unready.json()["error"]["message"]
    late = httpx.post(f"{url}/generate", json=asked(), timeout=20, trust_env=False)
    assert late.status_code == 200, "until the balancer has heard, questions are answered"
    asking.join(20)
    assert [answer.status_code for answer in answers] == [200]
    assert server.end() == 0
    assert not [line for line in server.lines if "/readyz" in line], "probes fill no log, while it is not ready neither"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz", trust_env=False)


def test_logs_are_json_without_the_users_data(started: list[Process]):
    for content in (False, True):
        server = Process("-c", SLOW, str(free_port()), "0", *(["content"] if content else []))
        started.append(server)
        url = server.told("listening")["url"]
        server.told("ready")
        question = asked(question="Who is Zaphod Beeblebrox?")
        headers = {"X-Request-ID": "my-id", "Authorization": "Bearer very-secret"}
        assert (
            httpx.post(
                f"{url}/generate?token=hush", json=question, headers=headers, timeout=20, trust_env=False
            ).status_code
            == 200
        )
        httpx.post(
            f"{url}/generate", json=question | {"Zaphod": 1}, headers={"X-Request-ID": "bad id"}, trust_env=False
        )
        server.process.send_signal(signal.SIGINT)
        assert server.end() == 0
        lines = [json.loads(line) for line in server.lines]
        text = "".join(server.lines)
        assert ("Zaphod" in text) == content
        for secret in ("very-secret", "hush"):
            assert secret not in text
        assert ("CREATE TABLE" in text) == content
        [line] = [line for line in lines if line["event"] == "request" and line["status"] == 200]
        assert (line["request_id"], line["route"], line["questions"], line["valid"]) == ("my-id", "/generate", 1, 1)
        assert line["total_tokens"] > 0
        assert line["ms"] >= 1000
        [refused] = [line for line in lines if line["event"] == "request" and line["status"] == 422]
        assert refused["code"] == "invalid_fields"
        assert refused["request_id"] != "bad id"
        assert len(refused["request_id"]) == 32


def test_real_model_answers_over_every_route(tiny_model: Path):
    """A random model: its answers are noise, and the guard says so."""
    from text2sql.serving.transformers_engine import TransformersEngine

    with running(TransformersEngine(tiny_model), max_new_tokens=8) as server, server.client() as client:
        short = {"schema_text": "CREATE TABLE t (a INT)", "question": "a?"}
        said = client.post("/generate", json=short | {"n": 3}).json()
        assert said["valid"] is False
        assert said["usage"]["completion_tokens"] > 0
        assert "event: answer" in client.post("/generate", json=short | {"stream": True}).text
        batch = client.post("/generate/batch", json={"requests": [short] * 4}).json()["responses"]
        assert {one["sql"] for one in batch} == {said["sql"]}, "the same prompt, the same greedy answer"
        messages = [{"role": "system", "content": short["schema_text"]}, {"role": "user", "content": "a?"}]
        chat = client.post("/v1/chat/completions", json={"model": tiny_model.name, "messages": messages}).json()
        assert chat["choices"][0]["finish_reason"] in ("stop", "length")
        assert client.post("/generate", json=asked(question="word " * 700)).status_code == 400
        assert "text2sql_engine_running 0.0" in client.get("/metrics").text


@pytest.mark.parametrize("fault", ["missing", "pickle", "corrupt", "code"])
def test_row_25_evil_or_broken_checkpoint(tiny_model: Path, tmp_path: Path, fault: str):
    from text2sql.serving.transformers_engine import TransformersEngine

    folder = tmp_path / "model"
    if fault != "missing":
        folder.mkdir()
        for path in tiny_model.iterdir():
            if path.suffix != ".safetensors" or fault == "code":
                (folder / path.name).write_bytes(path.read_bytes())
        name = {"pickle": "pytorch_model.bin", "corrupt": "model.safetensors", "code": "evil.py"}[fault]
        (folder / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    if fault == "code":
        config = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoConfig": "evil.Evil"}}
        (folder / "config.json").write_text(json.dumps(config))
    with running(TransformersEngine(folder), wait=False) as server, server.client() as client:
        until(lambda: server.app.state.service.failed)
        assert isinstance(server.app.state.service.failed, ModelError)
        assert client.get("/readyz").status_code == 503
    assert not (PROJECT / "pwned").exists()


def test_server_whose_model_cannot_be_loaded_ends(started: list[Process]):
    """With an error in one line and exit code 1, so that whoever started it knows."""
    script = SLOW.replace("ScriptedEngine(seconds=1.0)", "ScriptedEngine(failure=ModelError('it is corrupt'))")
    script = script.replace("import asyncio, sys", "import sys; from text2sql.errors import ModelError")
    server = Process("-c", script, "0", "0")
    started.append(server)
    assert server.end() == 1
    assert "it is corrupt" in "".join(server.lines)


def test_model_that_loads_slowly_or_not_is_not_ready():
    engine = ScriptedEngine(failure=ModelError("corrupt"))
    with running(engine, wait=False) as server, server.client() as client:
        until(lambda: server.app.state.service.failed)
        assert client.get("/readyz").status_code == 503
        response = client.post("/generate", json=asked())
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
        assert client.get("/healthz").status_code == 200


def test_fault_of_ours_while_the_model_loads_is_told(caplog: pytest.LogCaptureFixture):
    """Not "the model is being loaded", for ever."""

    class Faulty(ScriptedEngine):
        async def start(self) -> None:
            raise RuntimeError("no kernel for this card")

    with running(Faulty(), wait=False) as server, server.client() as client:
        until(lambda: server.app.state.service.failed)
        assert "could not be loaded" in client.get("/readyz").json()["error"]["message"]
    assert "RuntimeError: no kernel for this card" in caplog.text


def test_taken_port_is_told(started: list[Process]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = Process("-c", SLOW, str(taken.getsockname()[1]), "0")
        started.append(server)
        assert server.end() == 1
    assert "cannot listen on 127.0.0.1" in "".join(server.lines)


def test_settings_come_from_flags_then_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEXT2SQL_PORT", "9000")
    monkeypatch.setenv("TEXT2SQL_QUEUE_SIZE", "5")
    monkeypatch.setenv("TEXT2SQL_ALLOWED_HOSTS", '["a.example"]')
    monkeypatch.setenv("TEXT2SQL_CACHE", "/somewhere")
    found = server_settings({"port": 9001, "host": None} | assignments(["rate_limit=5/minute", "log_content=true"]))
    assert (found.port, found.queue_size, found.host) == (9001, 5, "127.0.0.1")
    assert (found.allowed_hosts, found.rate_limit, found.log_content) == (("a.example",), "5/minute", True)


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        ({"port": 70_000}, {}, "port"),
        ({"rate_limit": "often"}, {}, "60/minute"),
        ({}, {"TEXT2SQL_PROT": "1"}, "did you mean TEXT2SQL_PORT"),
        ({}, {"TEXT2SQL_PORT": "x"}, "port"),
        ({}, {"TEXT2SQL_ALLOWED_HOSTS": "a"}, "allowed_hosts"),
        ({"host": "192.0.2.1"}, {}, "python -m text2sql key"),
        ({"host": "::"}, {}, "allow_anonymous"),
        ({"engine": "magic"}, {}, "engine"),
        ({"request_timeout": float("inf")}, {}, "request_timeout"),
    ],
)
def test_wrong_settings_are_told(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], environment: dict[str, str], words: str
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=words):
        server_settings(flags)


def test_assignments_are_checked():
    with pytest.raises(ConfigError, match="did you mean queue_size"):
        assignments(["queue_sise=3"])
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        assignments(["queue_size"])


def test_every_setting_is_explained_in_the_docs():
    text = (PROJECT / "docs" / "serving.md").read_text("utf-8")
    for name, field in ServerSettings.model_fields.items():
        assert field.description, name
        assert f"| `{name}` |" in text, name


def test_vllm_alone_stays_on_loopback(started: list[Process], tmp_path: Path):
    wide = Process("-c", START, "--mode", "vllm", "--host", "192.0.2.1", "--set", "allow_anonymous=true")
    started.append(wide)
    assert wide.end() == 2
    assert "loopback" in wide.lines[-1]
    missing = Process("-c", START, "--mode", "vllm", "--set", f"vllm_python={tmp_path}/python")
    started.append(missing)
    assert missing.end() == 1
    assert "make vllm" in missing.lines[-1]


def test_a_quotation_that_nobody_closed_is_told_in_a_line(started: list[Process]):
    unclosed = Process("-c", START, "--vllm-arg=--max-model-len '4096")
    started.append(unclosed)
    assert unclosed.end() == 2
    assert len(unclosed.lines) == 1
    assert "no closing quotation" in unclosed.lines[0]
