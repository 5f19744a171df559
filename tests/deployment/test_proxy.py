"""The stable address, with the real API behind it: what passes, what does not, and what becomes of those who leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import uvicorn

from tests.serving.api import COUNT, Running, ScriptedEngine, asked, running, until
from text2sql.deployment.backend import Backend, Spec
from text2sql.deployment.proxy import Proxy
from text2sql.deployment.release import Release
from text2sql.serving.server import listening


class Front:
    """A proxy that runs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.backend: Backend | None = None

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20, trust_env=False)


@contextlib.contextmanager
def fronting(timeout: float = 20.0) -> Iterator[Front]:
    with listening("127.0.0.1", 0) as found:
        front = Front(f"http://127.0.0.1:{found.getsockname()[1]}")
        proxy = Proxy(lambda: front.backend, timeout)
        server = uvicorn.Server(uvicorn.Config(proxy, log_config=None, lifespan="off", timeout_graceful_shutdown=2))

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
    host, port = front.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
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
