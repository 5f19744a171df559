"""The stable address, with the real API behind it: what passes, what does not, and what becomes of those who leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.api import COUNT, Running, ScriptedEngine, asked, running, until
from text2sql.deployment import listener
from text2sql.deployment.backend import Backend, Spec
from text2sql.deployment.proxy import Proxy
from text2sql.deployment.release import Release
from text2sql.serving.connection import Bounds, listening

PROJECT = Path(listener.__file__).parents[2]
MAX_BODY_BYTES = 200_000
HEAD = "POST /generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


class Front:
    """A proxy that runs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.backend: Backend | None = None

    def connect(self) -> socket.socket:
        """To say what no client would."""
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=10)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20, trust_env=False)


@contextlib.contextmanager
def fronting(timeout: float = 20.0, body_timeout: float = 20.0, **bounds: Any) -> Iterator[Front]:
    with listening("127.0.0.1", 0) as found:
        front = Front(f"http://127.0.0.1:{found.getsockname()[1]}")
        proxy = Proxy(lambda: front.backend, timeout, body_timeout, MAX_BODY_BYTES)
        server = listener.server(proxy, 2, Bounds(**bounds))

        async def main() -> None:
            await server.serve(sockets=[found])
            await proxy.close()

        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        try:
            yield front
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def backend_at(port: int, version: str = "3") -> Backend:
    return Backend(Spec(Release("m", version, "d", "", ""), [], {}, ""), state="up", port=port)


def test_the_gateway_needs_nothing_of_what_stands_behind_it():
    program = "import sys, text2sql.deployment.gateway; print({'fastapi', 'sqlglot', 'torch'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", program], cwd=PROJECT) == b"set()\n"


@pytest.fixture(scope="module")
def api() -> Iterator[Running]:
    with running(ScriptedEngine(), max_body_bytes=20_000) as found:
        yield found


@pytest.fixture
def front(api: Running) -> Iterator[Front]:
    with fronting() as found:
        found.backend = backend_at(api.port)
        yield found


def test_answers_pass_as_they_are_with_the_version(front: Front, api: Running):
    with front.client() as client:
        reply = client.post("/generate", json=asked(), headers={"X-Request-ID": "mine-1"})
        assert reply.status_code == 200
        assert reply.json()["sql"] == COUNT
        assert reply.headers["X-Request-ID"] == "mine-1"
        assert reply.headers["X-Model-Version"] == "3"
        assert reply.headers.get_list("content-length") == [str(len(reply.content))]
        for path in ("/", "/readyz", "/v1/models", "/metrics", "/docs", "/openapi.json"):
            direct = httpx.get(api.url + path, trust_env=False)
            passed = client.get(path)
            assert passed.status_code == direct.status_code == 200, path
            assert passed.headers["content-type"] == direct.headers["content-type"], path


@pytest.mark.parametrize("path", ["/pause", "/update_weights", "/invocations", "/stop", "/begin", "/status"])
def test_row_14_there_are_no_other_routes(front: Front, path: str):
    with front.client() as client:
        assert client.post(path, json={}).status_code == 404


def test_streams_come_as_they_grow(front: Front, api: Running):
    with front.client() as client, client.stream("POST", "/generate", json=asked(stream=True)) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = [line for line in reply.iter_lines() if line.startswith("event:")]
    assert events[0] == "event: token"
    assert events[-1] == "event: answer"


def test_row_17_a_body_that_is_too_long_is_answered_413(front: Front):
    long = asked(question="x" * 30_000)
    with front.client() as client:
        assert client.post("/generate", json=long).status_code == 413
        data = json.dumps(long).encode()
        chunked = (data[i : i + 1000] for i in range(0, len(data), 1000))
        reply = client.post("/generate", content=chunked, headers={"Content-Type": "application/json"})
        assert reply.status_code == 413
        assert client.post("/generate", json=asked()).status_code == 200


def test_row_16_a_host_of_somebody_elses_is_refused_by_the_server_behind(front: Front):
    with front.client() as client:
        reply = client.post("/generate", json=asked(), headers={"Host": "evil.example"})
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "invalid_host"


@pytest.mark.parametrize("target", ["*", "http://127.0.0.1/generate", "//x", "/%00", "/a?b=%zz", "/\\..\\x"])
def test_odd_targets_get_a_4xx(front: Front, target: str):
    with front.connect() as raw:
        raw.sendall(
            f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        status = raw.makefile("rb").readline()
    assert status.startswith(b"HTTP/1.1 4"), status


def test_row_19_the_clients_going_reaches_the_engine():
    engine = ScriptedEngine(seconds=30)
    with running(engine) as api, fronting() as front:
        front.backend = backend_at(api.port)
        with front.client() as client, pytest.raises(httpx.ReadTimeout):
            client.post("/generate", json=asked(), timeout=1.0)
        until(lambda: engine.cancelled == 1, 10)
        until(lambda: front.backend is not None and front.backend.held == 0, 10)


def test_without_a_server_it_says_so_in_the_usual_shape():
    with fronting() as front, front.client() as client:
        for backend, words in ((None, "nothing is deployed"), (backend_at(9), "is being started again")):
            front.backend = backend
            reply = client.post("/generate", json=asked())
            assert reply.status_code == 503
            assert int(reply.headers["Retry-After"]) > 0
            assert words in reply.json()["error"]["message"]


def test_a_server_that_comes_within_a_moment_is_waited_for(api: Running):
    with fronting() as front, front.client() as client:
        front.backend = backend_at(9)
        threading.Timer(0.15, lambda: setattr(front, "backend", backend_at(api.port))).start()
        assert client.post("/generate", json=asked()).status_code == 200


def test_row_20_a_server_that_hangs_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as deaf, fronting(timeout=0.5) as front, front.client() as client:
        front.backend = backend_at(deaf.getsockname()[1])
        begun = time.monotonic()
        reply = client.post("/generate", json=asked())
        assert reply.status_code == 504
        assert time.monotonic() - begun < 10


def test_half_an_answer_does_not_look_like_a_whole_one():
    def half(listener: socket.socket) -> None:
        with listener.accept()[0] as raw:
            raw.recv(65_536)
            raw.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")

    with socket.create_server(("127.0.0.1", 0)) as listener, fronting() as front, front.client() as client:
        threading.Thread(target=half, args=(listener,)).start()
        front.backend = backend_at(listener.getsockname()[1])
        with pytest.raises(httpx.RemoteProtocolError):
            client.post("/generate", json=asked())


def answer(raw: socket.socket) -> tuple[int, dict[str, object]]:
    """Until the connection ends."""
    with raw.makefile("rb") as file:
        head, _, body = file.read().partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.fixture
def hasty(api: Running) -> Iterator[Front]:
    with fronting(head_seconds=0.5) as found:
        found.backend = backend_at(api.port)
        yield found


@pytest.mark.parametrize("words", ["", HEAD, f"{HEAD}X-Endless: {'x' * 1000}"], ids=["silent", "slow", "endless"])
def test_headers_that_do_not_end_are_answered_408(hasty: Front, words: str):
    with hasty.connect() as raw:
        raw.sendall(words.encode())
        begun = time.monotonic()
        status, error = answer(raw)
    assert (status, error["code"]) == (408, "slow_request")
    assert time.monotonic() - begun < 5


def test_slow_headers_of_a_later_request_too(hasty: Front):
    with hasty.connect() as raw:
        raw.sendall(f"GET /readyz{HEAD[14:]}\r\n".encode())
        assert raw.recv(65_536).startswith(b"HTTP/1.1 200")
        raw.sendall(b"GET /")
        assert answer(raw)[0] == 408


def test_slow_headers_that_begin_while_another_request_is_answered(hasty: Front):
    with hasty.connect() as raw:
        raw.sendall(f"GET /readyz{HEAD[14:]}\r\nGET /".encode())
        with raw.makefile("rb") as file:
            assert file.read().split(b"HTTP/1.1 ")[2].startswith(b"408")


def test_headers_that_are_too_long_are_answered_400(front: Front):
    with front.connect() as raw:
        raw.sendall(f"{HEAD}X: {'x' * 40_000}".encode())
        assert raw.recv(65_536).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("drip", [False, True], ids=["stalls", "drips"])
def test_a_body_that_does_not_come_is_answered_408(api: Running, drip: bool):
    with fronting(body_timeout=0.7) as front, front.connect() as raw:
        front.backend = backend_at(api.port)
        raw.sendall(f"{HEAD}Content-Length: 100\r\n\r\n".encode())
        begun = time.monotonic()
        while drip and time.monotonic() - begun < 1.5:  # also after the answer
            raw.sendall(b" ")
            time.sleep(0.1)
        status, error = answer(raw)
        assert (status, error["code"]) == (408, "slow_request")
        assert time.monotonic() - begun < 10
        until(lambda: front.backend is not None and front.backend.held == 0, 10)


def test_a_body_that_no_route_would_take_is_not_taken_up(front: Front):
    with front.client() as client:
        data = b"x" * (MAX_BODY_BYTES + 1)
        assert client.post("/generate", content=data).status_code == 413
        assert client.post("/generate", content=iter([data[:100_000], data[100_000:]])).status_code == 413
    with front.connect() as raw:
        raw.sendall(f"{HEAD}Content-Length: {10**15}\r\n\r\n".encode())
        status, error = answer(raw)
    assert (status, error["code"]) == (413, "too_long")


def test_a_connection_too_many_is_answered_503(api: Running):
    with fronting(max_connections=3) as front:
        front.backend = backend_at(api.port)
        with contextlib.ExitStack() as held:
            for _ in range(3):
                held.enter_context(front.connect())
            time.sleep(0.2)
            with front.client() as client:
                reply = client.get("/readyz")
            assert reply.status_code == 503
            assert reply.headers["Retry-After"] == "5"
            assert "too many connections" in reply.json()["error"]["message"]
        until(lambda: httpx.get(f"{front.url}/readyz", trust_env=False).status_code == 200, 10)


class Endless(BaseHTTPRequestHandler):
    """Answers with as many bytes as its path says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        size = int(self.path.removeprefix("/"))
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(0, size, 50_000):
                self.wfile.write(b"x" * 50_000)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def generous() -> Iterator[Backend]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever).start()
        yield backend_at(server.server_port)
        server.shutdown()


def test_a_client_that_does_not_read_is_cut_off_and_others_are_answered(generous: Backend):
    with fronting(write_seconds=0.5) as front, contextlib.ExitStack() as held:
        front.backend = generous
        deaf = [held.enter_context(front.connect()) for _ in range(5)]
        for raw in deaf:
            raw.sendall(b"GET /500000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: generous.held == 5, 10)
        with front.client() as client:
            begun = time.monotonic()
            assert len(client.get("/1000000").content) == 1_000_000
            assert time.monotonic() - begun < 5
        until(lambda: generous.held == 0, 10)
        for raw in deaf:
            assert sum(len(piece) for piece in iter(lambda: raw.recv(1 << 20), b"")) < 100_000_000  # noqa: B023


def test_a_client_that_reads_slowly_gets_it_all(generous: Backend):
    with fronting(write_seconds=0.5) as front, front.connect() as raw:
        front.backend = generous
        raw.sendall(b"GET /20000000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        read, begun = 0, time.monotonic()
        while piece := raw.recv(1_000_000, socket.MSG_WAITALL):
            read += len(piece)
            time.sleep(0.1)
        assert read > 20_000_000
        assert time.monotonic() - begun > 1.5, "several times the deadline"
