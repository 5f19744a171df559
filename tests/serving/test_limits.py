"""What is too much: bytes, depth, time, questions at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.serving.api import COUNT, SINGERS, Running, ScriptedEngine, asked, running, until
from text2sql.errors import DatabaseError, EngineDead, EngineTimeout, QueryTimeoutError, ServingError
from text2sql.serving.databases import Limits
from text2sql.serving.intake import parse_json
from text2sql.serving.problems import Problem


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    settings = {"max_body_bytes": 300_000, "body_timeout": 2.0, "request_timeout": 2.0, "max_in_flight": 20}
    with running(ScriptedEngine(places=2, queue=4), **settings) as found:
        yield found


@pytest.fixture
def engine(server: Running) -> Iterator[ScriptedEngine]:
    yield server.engine
    server.engine.seconds, server.engine.failure, server.engine.alive, server.engine.progressing = 0.0, None, True, True
    until(lambda: server.app.state.service.places.taken == 0)


def raw(server: Running, *parts: bytes, pause: float = 0.0) -> bytes:
    """Send bytes as they are; what comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except (BrokenPipeError, ConnectionResetError):
            pass
        received = b""
        with contextlib.suppress(ConnectionResetError):  # bytes of ours were left unread
            while more := connection.recv(65_536):
                received += more
        return received


HEAD = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"


def code_of(answer: bytes) -> tuple[int, str]:
    return int(answer[9:12]), json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]


def test_row_17_oversized_body(server: Running):
    with server.client() as client:
        response = client.post("/generate", content=b" " * 400_000, headers={"Content-Type": "application/json"})
        assert (response.status_code, response.json()["error"]["code"]) == (413, "too_long")
        assert client.post("/generate", json=asked()).status_code == 200


def test_row_17_chunked_body_is_counted_while_it_comes(server: Running):
    chunk = b"%x\r\n%s\r\n" % (50_000, b"x" * 50_000)
    answer = raw(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 12, b"0\r\n\r\n")
    assert code_of(answer) == (413, "too_long")


def test_row_17_chunked_body_without_end_is_cut_off(server: Running):
    chunk = b"%x\r\n%s\r\n" % (65_536, b"x" * 65_536)
    begun = time.monotonic()
    answer = raw(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 1_000)
    assert time.monotonic() - begun < 15
    assert answer == b"" or code_of(answer) == (413, "too_long")


@pytest.mark.parametrize("headers", [b"X: " + b"x" * 1_000_000, b"\r\n".join(b"X%d: x" % i for i in range(100_000))])
def test_row_17_headers_without_end_are_cut_off(server: Running, headers: bytes):
    answer = raw(server, HEAD, headers, b"\r\nContent-Length: 0\r\n\r\n")
    assert answer[9:12] in (b"400", b"431", b""), answer[:100]  # "": reset while it still sent
    with server.client() as client:
        assert client.post("/generate", json=asked()).status_code == 200


def test_row_17_head_that_trickles_in_is_not_waited_for(server: Running):
    whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def check(sent: list[bytes]) -> None:
        begun = time.monotonic()
        answers = raw(server, *sent, pause=0.2).split(b"HTTP/1.1 ")[1:]
        assert [answer[:3] for answer in answers] == [b"200"] * sent.count(whole) + [b"408"]
        assert code_of(b"HTTP/1.1 " + answers[-1]) == (408, "slow_request")
        assert 0.9 < time.monotonic() - begun < 5

    with ThreadPoolExecutor() as pool:
        list(pool.map(check, ([b""], [whole[:8]], [whole[:8], whole[8:20]], [whole, whole[:8]])))


def test_answers_that_nobody_reads_end_the_connection(server: Running, monkeypatch: pytest.MonkeyPatch):
    protocol: Any = server.server.config.http
    monkeypatch.setitem(protocol.keywords, "bounds", replace(protocol.keywords["bounds"], write_seconds=0.5))
    with socket.create_connection(("127.0.0.1", server.port)) as deaf:
        deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500)
        here = deaf.getsockname()
        connections = server.server.server_state.connections
        until(lambda: here in [connection.client for connection in connections], 5)
        until(lambda: here not in [connection.client for connection in connections], 20)


@pytest.mark.parametrize("length", ["-1", "1e3", "abc", "9" * 30])
def test_row_17_odd_lengths(server: Running, length: str):
    answer = raw(server, HEAD + f"Content-Length: {length}\r\n\r\n".encode())
    assert answer[9:12] in (b"400", b"413")


@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions", "/generate/batch"])
@pytest.mark.parametrize("nested", ["[" * 100_000, '{"a":' * 40_000, "[" * 20 + "]" * 20, "[]," * 12_000])
def test_row_17_deep_json(server: Running, path: str, nested: str):
    with server.client() as client:
        response = client.post(path, content=nested, headers={"Content-Type": "application/json"})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nul", b'{"a": NaN}', b'{"a": Infinity}', b"\xff\xfe{}", b'"\\ud800"', b"{'a': 1}", b"1" * 5_000],
)
def test_what_is_no_json_is_refused(server: Running, body: bytes):
    with server.client() as client:
        response = client.post("/generate", content=body, headers={"Content-Type": "application/json"})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


def test_brackets_in_texts_do_not_count():
    text = json.dumps({"a": "[" * 1_000 + '\\"{' * 1_000})
    assert parse_json(text.encode(), depth=2) == json.loads(text)
    assert parse_json(b'"\\ud83d\\ude00"', depth=1) == "\U0001f600"
    with pytest.raises(Problem):
        parse_json(b'[["]"]]', depth=1)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_other_types_are_refused(server: Running, kind: str):
    with server.client() as client:
        response = client.post("/generate", content=json.dumps(asked()), headers={"Content-Type": kind})
        assert response.status_code == 415


def test_slow_body_is_not_waited_for(server: Running):
    answer = raw(server, HEAD + b"Content-Length: 100\r\n\r\n", b"{", b'"', pause=0.1)
    assert code_of(answer) == (408, "slow_request")


def test_files_are_received_a_bounded_number_at_a_time(server: Running):
    """Each may take megabytes of memory before a question's place is asked for."""
    uploads = server.app.state.service.uploads
    head = HEAD.replace(b"/generate", b"/schema?name=x.sql").replace(b"json", b"octet-stream")
    with contextlib.ExitStack() as stack, server.client() as client:
        for _ in range(uploads.limit):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
            connection.sendall(head + b"Content-Length: 100\r\n\r\n")
        until(lambda: uploads.taken == uploads.limit)
        refused = client.post("/schema", files={"file": ("x.sql", SINGERS)})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert refused.headers["Retry-After"] == "1"
        assert client.post("/generate", json=asked()).status_code == 200
        until(lambda: uploads.taken == 0)
        assert client.post("/schema", files={"file": ("x.sql", SINGERS)}).status_code == 200


def test_answer_that_takes_too_long_is_a_504(server: Running, engine: ScriptedEngine):
    engine.seconds = 10
    with server.client() as client:
        response = client.post("/generate", json=asked())
        assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
        streamed = client.post("/generate", json=asked(stream=True))
        assert streamed.status_code == 504, "nothing was sent yet"
    until(lambda: engine.running == 0)


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (EngineDead("vLLM answers with 500: secret words"), 503, "engine_unavailable"),
        (EngineTimeout("late"), 504, "timeout"),
        (ServingError("secret words"), 503, "engine_failed"),
        (DatabaseError("database postgresql://secret.internal:5432/x cannot be reached"), 503, "database_unavailable"),
        (RuntimeError("secret words"), 500, "internal_error"),
    ],
)
def test_engine_s_errors_have_a_status(
    server: Running,
    engine: ScriptedEngine,
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
    status: int,
    code: str,
):
    """What an engine or a driver said is for the log alone."""
    engine.failure = failure
    caplog.set_level("INFO", "text2sql.serving.observe")
    with server.client() as client:
        for stream in (False, True):
            response = client.post("/generate", json=asked(stream=stream))
            assert (response.status_code, response.json()["error"]["code"]) == (status, code)
            assert "secret" not in response.text
            assert ("retry-after" in response.headers) == (status == 503)
            until(lambda: status != 503 or str(failure) in [getattr(line, "cause", "") for line in caplog.records])
            caplog.clear()
        batch = client.post("/generate/batch", json={"requests": [asked()]})
        assert "secret" not in batch.text
    engine.failure = None
    with server.client() as client:
        assert client.post("/generate", json=asked()).status_code == 200


def test_row_21_engine_that_hangs_is_not_ready(
    server: Running, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
):
    """What the engine says of it, a line of vLLM's log perhaps, is for our log alone, and once."""
    with server.client() as client:

        def probed() -> tuple[int, str]:
            response = client.get("/readyz")
            return response.status_code, response.json().get("error", {}).get("message", "ok")

        assert probed() == (200, "ok")
        engine.progressing = False
        assert [probed() for _ in range(3)] == [(503, "the engine makes no progress")] * 3
        assert caplog.text.count("no token for 99 s") == 1
        engine.progressing, engine.alive = True, False
        assert probed() == (503, "the engine is gone")
        assert client.get("/healthz").status_code == 200
        engine.alive = True
        assert probed() == (200, "ok")


@pytest.mark.parametrize("stream", [False, True])
def test_row_19_client_that_goes_away(server: Running, engine: ScriptedEngine, stream: bool):
    engine.seconds = 1.5
    before = engine.cancelled
    body = json.dumps(asked(stream=stream)).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        until(lambda: engine.running == 1)
    until(lambda: engine.cancelled == before + 1, seconds=1)
    assert engine.running == engine.waiting == 0
    until(lambda: server.app.state.service.places.taken == 0, seconds=1)


def test_row_19_client_that_leaves_a_stream_in_the_middle(server: Running, engine: ScriptedEngine):
    """Words were sent already; the repair that nobody waits for is aborted."""
    engine.seconds = 0.7
    before = engine.cancelled
    engine.answers["stream away"] = "SELECT nothing FROM singer"
    body = json.dumps(asked(question="stream away", stream=True)).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        received = b""
        while b"event: token" not in received:
            received += connection.recv(65536)
        until(lambda: engine.running == 1 and "-- error:" in engine.prompts[-1])
    until(lambda: engine.cancelled == before + 1, seconds=0.6)


def test_row_15_absurd_wishes_leave_the_engine_alive(server: Running, engine: ScriptedEngine):
    chat = {"model": "scripted", "messages": [{"role": "user", "content": asked()["schema_text"] + "; How many?"}]}
    wishes: list[dict[str, Any]] = [
        {"n": 10**9},
        {"n": -1},
        {"n": 10**400},
        {"max_tokens": 0},
        {"stop": ["x"] * 10_000},
        {"stop_token_ids": [10**9], "temperature": 99},
        {"temperature": -1},
        {"top_p": 0},
        {"seed": 2**80},
        {"logit_bias": {"999999999": 100}},
        {"response_format": {"type": "regex", "pattern": "(" * 1_000}},
    ]
    with server.client() as client:
        for wish in wishes:
            assert client.post("/v1/chat/completions", json=chat | wish).status_code in (400, 422), wish
        assert client.post("/generate", json=asked(n=10**9)).status_code == 422
        assert client.post("/v1/chat/completions", json=chat).status_code == 200
        assert client.get("/readyz").status_code == 200


def test_full_queue_is_told_with_the_time_to_wait(server: Running, engine: ScriptedEngine):
    engine.seconds = 0.3

    async def all_at_once() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=20, trust_env=False) as client:
            return await asyncio.gather(*(client.post("/generate", json=asked()) for _ in range(40)))

    answers = asyncio.run(all_at_once())
    counted = Counter(response.status_code for response in answers)
    assert set(counted) == {200, 429}
    assert counted[200] >= 6
    for response in answers:
        if response.status_code == 429:
            assert response.json()["error"]["code"] == "queue_full"
            assert int(response.headers["retry-after"]) >= 1
    assert engine.most_waiting <= engine.queue


def test_batch_size_is_seen_as_questions_go_in(server: Running, engine: ScriptedEngine):
    """Two at a time: what is seen when answers come out would miss those that run beside."""

    def seen() -> tuple[float, float]:
        with server.client() as client:
            lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines())
        return float(lines["text2sql_batch_size_count"]), float(lines["text2sql_batch_size_sum"])

    async def three() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=20, trust_env=False) as client:
            asking = [asyncio.ensure_future(client.post("/generate", json=asked())) for _ in range(3)]
            while engine.running + engine.waiting < 3:
                await asyncio.sleep(0.01)
            after = await asyncio.to_thread(seen)
            assert (after[0] - before[0], after[1] - before[1]) == (3, 1 + 2 + 2)
            await asyncio.gather(*asking)

    engine.seconds = 0.5
    before = seen()
    asyncio.run(three())


@pytest.fixture
def busy_guard(server: Running, tmp_path: Path) -> Iterator[None]:
    """The server's one guard process is taken for longer than a request waits."""
    path = tmp_path / "x.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(SINGERS)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"
    work = server.app.state.service.guard.run(str(path), endless, Limits(seconds=2.5))
    taken = asyncio.run_coroutine_threadsafe(work, server.loop)
    time.sleep(0.1)
    yield
    assert isinstance(taken.exception(30), QueryTimeoutError)


@pytest.mark.usefixtures("busy_guard")
def test_busy_guard_is_a_503_and_no_verdict(server: Running, engine: ScriptedEngine):
    chat = {"model": "scripted", "messages": [{"role": "user", "content": f"{SINGERS}; How many?"}]}
    bodies = [("/generate", asked()), ("/generate", asked(stream=True)), ("/v1/chat/completions", chat)]
    bodies.append(("/v1/chat/completions", chat | {"stream": True}))

    async def all_at_once() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=20, trust_env=False) as client:
            asking = [client.post(path, json=body) for path, body in bodies]
            return await asyncio.gather(*asking, client.post("/generate/batch", json={"requests": [asked()]}))

    *answers, batch = asyncio.run(all_at_once())
    for response in answers:
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (503, "guard_busy"), response.text
        assert error["type"] == "service_unavailable_error"
        assert int(response.headers["retry-after"]) >= 1
    assert batch.json()["responses"][0]["error"]["code"] == "guard_busy"


LOAD, CLIENTS = 5_000, 200
"""Questions, and those who ask them, each the next one as soon as it has its answer."""


def test_no_answer_is_lost_under_load():
    """Far more clients than places: each gets its own answer or is told to come back, and memory stays flat."""
    counted: Counter[int] = Counter()
    memory: list[float] = []
    process = psutil.Process()

    async def ask(port: int, left: Iterator[int]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in left:
            body = json.dumps(asked(question=f"How many singers? {number}")).encode()
            head = f"X-Request-ID: load-{number}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            writer.write(HEAD.replace(b"Connection: close\r\n", b"") + head + body)
            status, headers = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n", 1)
            length = int(headers.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            said = json.loads(await reader.readexactly(length))
            counted[code := int(status.split()[1])] += 1
            if code == 200:
                assert (said["sql"], said["request_id"]) == (COUNT, f"load-{number}")
            else:
                assert said["error"]["code"] in ("queue_full", "guard_busy")
                assert b"retry-after: " in headers
                await asyncio.sleep(0.1)
            if number % (LOAD // 10) == 0:
                memory.append(process.memory_info().rss / 1e6)
        writer.close()
        await writer.wait_closed()

    async def all_clients(port: int) -> None:
        left = iter(range(LOAD))
        await asyncio.gather(*(ask(port, left) for _ in range(CLIENTS)))

    engine = ScriptedEngine(places=8, queue=16, seconds=0.002)
    with running(engine, max_in_flight=64, request_timeout=30) as server:
        asyncio.run(all_clients(server.port))
        until(lambda: engine.running == engine.waiting == 0)
        assert server.app.state.service.places.taken == 0
    assert sum(counted.values()) == LOAD
    assert set(counted) <= {200, 429, 503}, counted
    assert counted[200] >= CLIENTS // 2, counted
    assert memory[-1] - memory[2] < 25, f"MB by tenths: {memory}"  # the first tenths fill caches


def test_client_that_leaves_while_it_sends_is_no_fault(server: Running, engine: ScriptedEngine):
    metric = 'text2sql_requests_total{method="POST",route="/generate",status="499"}'
    with server.client() as client:
        before = client.get("/metrics").text
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
            time.sleep(0.1)
        until(lambda: client.get("/metrics").text.count(metric) and 'code="client_gone"' in client.get("/metrics").text)
        assert before.count('code="internal_error"') == client.get("/metrics").text.count('code="internal_error"')
