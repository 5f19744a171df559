"""The engine that asks a vLLM server: a real one, and for faults a small HTTP server that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from text2sql.config import ModelSection
from text2sql.errors import EngineBusy, EngineDead, EngineTimeout, RequestError, ServingError
from text2sql.serving.engine import Completion, Options
from text2sql.serving.vllm_engine import VllmEngine

if TYPE_CHECKING:
    pass

T = TypeVar("T")
PROJECT = Path(__file__).parents[2]
TINY_MISTRAL = PROJECT / "assets" / "tiny-mistral"
SCHEMA = "CREATE TABLE ship (name VARCHAR, age INTEGER, weight INTEGER)"
PROMPTS = [
    f"Schema:\n{SCHEMA}\nQuestion: What is the {column} of ship {number}?\nSQL:"
    for number in range(8)
    for column in ("name", "age", "weight")
]

Reply = Callable[[str, dict[str, object]], Awaitable[tuple[int, object] | None]]


@contextlib.asynccontextmanager
async def misbehaving(reply: Reply, port: int = 0) -> AsyncIterator[str]:
    """An HTTP server: `reply` gives status and JSON to a path and body, or None to hang up."""

    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                await _answer(reader, writer, reply)
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        left = list(tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await asyncio.sleep(0)  # transports close a turn later


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: Reply) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length:")[1].split()[0]) if "content-length:" in head else 0
    body = json.loads(await reader.readexactly(length) or b"{}")
    path = head.split()[1]
    answer: tuple[int, object] | None
    if path == "/v1/models":
        answer = (200, {"data": [{"id": name, "max_model_len": 128} for name in ("m", "adapter")]})
    elif path == "/health":
        answer = (200, {})
    else:
        answer = await reply(path, body)
    if answer is not None:
        said = (answer[1] if isinstance(answer[1], str) else json.dumps(answer[1])).encode()
        start = f"HTTP/1.1 {answer[0]} X\r\nContent-Length: {len(said)}\r\nConnection: close\r\n\r\n"
        writer.write(start.encode() + said)
        await writer.drain()


def against(tiny_model: Path, reply: Reply, work: Callable[[VllmEngine], Awaitable[T]], **options: float | str) -> T:
    async def main() -> T:
        async with (
            misbehaving(reply) as url,
            VllmEngine(url, tokenizer=ModelSection(name=str(tiny_model)), **options) as engine,
        ):  # type: ignore[arg-type]
            return await work(engine)

    return asyncio.run(main())


def choice(text: str = " SELECT 1 ", tokens: int = 3) -> dict[str, object]:
    return {"choices": [{"index": 0, "text": text, "token_ids": [7] * tokens, "finish_reason": "stop"}]}


ASK = Options(max_new_tokens=8)


def test_a_request_carries_the_tokens_that_trained_and_every_option(tiny_model: Path):
    from text2sql.data.prompt import encode_prompts
    from text2sql.training.model import load_tokenizer

    seen: list[dict[str, object]] = []

    async def reply(_: str, body: dict[str, object]) -> tuple[int, object]:
        seen.append(body)
        return 200, choice()

    options = Options(max_new_tokens=9, temperature=0.5, top_p=0.8, seed=3, stop=(";",), cache_salt="ann's")
    [[found]] = against(tiny_model, reply, lambda engine: engine.generate(["SELECT é"], options))
    [ids] = encode_prompts(load_tokenizer(ModelSection(name=str(tiny_model))), ["SELECT é"])
    assert found == Completion("SELECT 1", len(ids), 3, "stop")
    assert seen[0]["prompt"] == ids
    wanted = {
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.8,
        "seed": 3,
        "stop": [";"],
        "n": 1,
        "repetition_penalty": 1.0,
        "cache_salt": "ann's",
    }
    assert seen[0].items() >= wanted.items()


def test_an_adapter_beside_its_base_is_asked_for_by_name(tiny_model: Path):
    seen: list[object] = []

    async def reply(_: str, body: dict[str, object]) -> tuple[int, object]:
        seen.append(body["model"])
        return 200, choice()

    for options in ({}, {"model": "adapter"}):
        against(tiny_model, reply, lambda engine: engine.generate(["SELECT"], ASK), **options)
    assert seen == ["m", "adapter"]
    with pytest.raises(EngineDead, match="has no model 'other'"):
        against(tiny_model, reply, lambda engine: engine.generate(["SELECT"], ASK), model="other")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RequestError),
        (404, RequestError),
        (429, EngineBusy),
        (503, EngineBusy),
        (500, EngineDead),
        (401, EngineDead),
    ],
)
def test_a_refusal_says_whose_fault_it_is(tiny_model: Path, status: int, kind: type[ServingError]):
    async def reply(*_: object) -> tuple[int, object]:
        return status, {"error": {"message": "because of\nthat"}}

    with pytest.raises(kind, match="because of that"):
        against(tiny_model, reply, lambda engine: engine.generate(["x"], ASK))


def test_a_server_that_hangs_up_or_is_gone_is_dead_and_not_asked_twice(tiny_model: Path):
    calls = 0

    async def reply(*_: object) -> None:
        nonlocal calls
        calls += 1

    async def work(engine: VllmEngine) -> None:
        with pytest.raises(EngineDead, match="cannot be reached"):
            await engine.generate(["x"], ASK)
        with pytest.raises(EngineDead, match="cannot be reached"):
            async with engine.stream("x", ASK) as chunks:
                await anext(chunks)

    against(tiny_model, reply, work)
    assert calls == 2


def test_a_connection_that_was_not_made_is_tried_again(tiny_model: Path):
    async def main() -> list[list[Completion]]:
        async def reply(*_: object) -> tuple[int, object]:
            return 200, choice()

        async with misbehaving(reply) as url:
            engine = VllmEngine(url, tokenizer=ModelSection(name=str(tiny_model)))
            await engine.start()
        asked = asyncio.create_task(engine.generate(["x"], ASK))
        await asyncio.sleep(0.05)
        async with misbehaving(reply, port=int(url.rsplit(":", 1)[1])):
            found = await asked
        await engine.stop()
        return found

    assert asyncio.run(main())[0][0].text == "SELECT 1"


def test_an_answer_that_does_not_come_is_a_timeout(tiny_model: Path):
    async def reply(*_: object) -> None:
        await asyncio.sleep(5)

    async def work(engine: VllmEngine) -> None:
        begun = time.monotonic()
        with pytest.raises(EngineTimeout, match="within 0.3 s"):
            await engine.generate(["x"], ASK)
        assert time.monotonic() - begun < 3
        assert (engine.load().running, engine.load().waiting) == (0, 0)

    against(tiny_model, reply, work, timeout=0.3)


def test_a_stream_has_one_time_limit_however_it_dawdles(tiny_model: Path):
    connections: set[asyncio.Task[None] | None] = set()

    async def dawdle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.current_task())
        models = b"GET /v1/models" in await reader.readuntil(b"\r\n\r\n")
        said = json.dumps({"data": [{"id": "m", "max_model_len": 128}]}) if models else ""
        length = f"Content-Length: {len(said)}\r\n" if models else ""
        writer.write(f"HTTP/1.1 200 X\r\n{length}Connection: close\r\n\r\n{said}".encode())
        with contextlib.suppress(ConnectionError):
            for _ in range(0 if models else 50):
                writer.write(b": still there\n\n")
                await writer.drain()
                await asyncio.sleep(0.1)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def main() -> None:
        async with await asyncio.start_server(dawdle, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            source = ModelSection(name=str(tiny_model))
            async with VllmEngine(url, tokenizer=source, timeout=0.5) as engine:
                begun = time.monotonic()
                with pytest.raises(EngineTimeout, match="more than 0.5 s"):
                    async with engine.stream("x", ASK) as chunks:
                        await anext(chunks)
                assert time.monotonic() - begun < 2
            await asyncio.gather(*filter(None, connections))

    asyncio.run(main())


def test_what_is_no_json_is_told(tiny_model: Path):
    async def reply(*_: object) -> tuple[int, object]:
        return 200, "<html>a proxy's page</html>"

    with pytest.raises(EngineDead, match="no JSON"):
        against(tiny_model, reply, lambda engine: engine.generate(["x"], ASK))


def test_more_than_the_queue_holds_is_refused_and_places_come_back(tiny_model: Path):
    async def main() -> None:
        gate = asyncio.Event()

        async def reply(*_: object) -> tuple[int, object]:
            await gate.wait()
            return 200, choice()

        async with (
            misbehaving(reply) as url,
            VllmEngine(url, tokenizer=ModelSection(name=str(tiny_model)), batch_size=2, queue_size=3) as engine,
        ):
            tasks = [asyncio.create_task(engine.generate(["x"], ASK)) for _ in range(4)]
            while engine.load().waiting < 2:
                await asyncio.sleep(0.01)
            with pytest.raises(EngineBusy) as busy:
                await engine.generate(["x", "y"], ASK)
            assert busy.value.retry_after >= 1
            with pytest.raises(RequestError, match="more than the 5"):
                await engine.generate(["x"] * 6, ASK)
            tasks[3].cancel()
            tasks[0].cancel()
            gate.set()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(answer, asyncio.CancelledError) for answer in found] == [True, False, False, True]
            assert (engine.load().running, engine.load().waiting) == (0, 0)

    asyncio.run(main())


def test_row_21_a_server_whose_probe_says_200_must_also_make_tokens(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("text2sql.serving.vllm_engine.PROBE_SECONDS", 0.2)
    tokens, stuck = 0, True

    async def reply(path: str, _: dict[str, object]) -> tuple[int, object] | None:
        if path == "/metrics":
            return 200, f"vllm:generation_tokens_total{{}} {tokens}"
        if stuck:
            await asyncio.sleep(2)
        return 200, choice()

    async def work(engine: VllmEngine) -> None:
        nonlocal stuck
        health = await engine.health()
        assert (health.alive, health.progressing, health.ready) == (True, False, False)
        stuck = False
        assert (await engine.health()).ready

    against(tiny_model, reply, work, quiet_seconds=-1)
