"""The real vLLM, by our own commands: `serve --mode vllm`, started once a session, and the API over one of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from tests.vllm_fixtures import PYTHON, Command, VllmServer, below, command
from text2sql.config import ModelSection
from text2sql.serving.engine import Options
from text2sql.serving.vllm_command import environment
from text2sql.serving.vllm_compiler import compiler_fault
from text2sql.serving.vllm_engine import VllmEngine

if TYPE_CHECKING:
    from datasets import Dataset

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]  # the first one starts the server

SCHEMA = "CREATE TABLE ship (name VARCHAR, age INTEGER, weight INTEGER)"
PROMPTS = [
    f"Schema:\n{SCHEMA}\nQuestion: What is the {column} of ship {number}?\nSQL:"
    for number in range(8)
    for column in ("name", "age", "weight")
]
ANSWER = Options(max_new_tokens=60)
SECONDS = 20
"""In which a request to the API must have ended, one way or the other."""


def engine_of(server: VllmServer, **options: Any) -> VllmEngine:
    return VllmEngine(server.url, tokenizer=ModelSection(name=str(server.folder)), api_key=server.api_key, **options)


def metric(server: VllmServer, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics", trust_env=False).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"vllm:{name}{{"))


def test_200_requests_at_once_get_the_answers_of_transformers(
    vllm_server: VllmServer, known_rows: Dataset, transformers_answers: list[str]
):
    """In the same data type: bf16, where close calls may fall either way."""

    async def main() -> list[str]:
        async with engine_of(vllm_server) as engine:
            options = Options(max_new_tokens=64)
            calls = [asyncio.create_task(engine.generate([prompt], options)) for prompt in known_rows["prompt"]]
            found = [completion.text for [[completion]] in await asyncio.gather(*calls)]
            assert (engine.load().running, engine.load().waiting) == (0, 0)
            return found

    found = asyncio.run(main())
    assert len(found) == len(transformers_answers) == 200
    assert sum(a == b for a, b in zip(found, transformers_answers, strict=True)) >= 196


def test_answers_streams_and_seeds(vllm_server: VllmServer):
    async def main() -> None:
        async with engine_of(vllm_server) as engine:
            [[whole]] = await engine.generate(PROMPTS[:1], ANSWER)
            async with engine.stream(PROMPTS[0], ANSWER) as chunks:
                pieces = [piece async for piece in chunks]
            assert len(pieces) > 3
            assert "".join(piece.text for piece in pieces) == whole.text
            assert pieces[-1].completion == whole

            drawn = Options(max_new_tokens=30, temperature=1.5, n=3, seed=5)
            first, again = [await engine.generate(PROMPTS[:2], drawn) for _ in range(2)]
            assert [len(candidates) for candidates in first] == [3, 3]
            assert first == again
            assert (await engine.health()).ready

    asyncio.run(main())


def test_openais_client_works_unchanged(vllm_server: VllmServer, known_rows: Dataset):
    prompt, gold = known_rows["prompt"][0], known_rows["completion"][0]
    options: dict[str, Any] = {
        "model": "tiny", "max_tokens": 60, "temperature": 0, "extra_body": {"repetition_penalty": 1.0}
    }  # fmt: skip
    with openai.OpenAI(base_url=f"{vllm_server.url}/v1", api_key=vllm_server.api_key, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        found = client.completions.create(prompt=prompt, **options)
        assert found.choices[0].text.strip() == gold.strip()
        assert found.usage.completion_tokens > 0
        chunks = list(client.completions.create(prompt=prompt, stream=True, **options))
        assert "".join(chunk.choices[0].text for chunk in chunks) == found.choices[0].text
    with (
        openai.OpenAI(base_url=f"{vllm_server.url}/v1", api_key="guessed", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_on_a_cpu_it_works_in_two_processes(vllm_server: VllmServer):
    """One that speaks HTTP and one that computes: each hand-over costs more than the work on a small machine."""
    port = vllm_server.url.rsplit(":", 1)[1]
    found = [pid for pid in below(os.getpid()) if b"api_server\0" in (words := _words(pid)) and port.encode() in words]
    [leader] = [pid for pid in found if b"keeper.py" not in _words(pid)]
    assert len([pid for pid in below(leader) if b"EngineCore" in _words(pid) or b"Worker" in _words(pid)]) == 1


def test_the_model_is_compiled_where_there_is_a_compiler(vllm_server: VllmServer):
    fault = compiler_fault(PYTHON, environment(PYTHON))
    words = re.findall(r"enforce_eager=(True|False)", vllm_server.log.read_text())
    assert words
    assert set(words) == {str(fault is not None)}
    assert ("disabling torch.compile" in vllm_server.log.read_text()) == (fault is not None)


def test_row_14_nobody_else_reaches_it(vllm_server: VllmServer):
    with socket.socket() as outside:
        outside.settimeout(2)
        assert outside.connect_ex((_address_of_this_machine(), int(vllm_server.url.rsplit(":", 1)[1]))) != 0


@pytest.mark.parametrize(
    "bad",
    [
        {"stop_token_ids": [10**9]},
        {"logit_bias": {"99999999": 5}},
        {"prompt": [10**9]},
        {"n": 10**6},
        {"structured_outputs": {"grammar": "root ::= ("}},
        {"structured_outputs": {"regex": "("}},
        {"logprobs": 10**6},
        {"cache_salt": ""},
    ],
    ids=lambda bad: next(iter(bad)),
)
def test_row_15_evil_options_are_400_and_the_engine_lives(vllm_server: VllmServer, bad: dict[str, Any]):
    """vLLM's own routes, which only this machine reaches; the API in front takes none of these fields."""
    body = {"model": "tiny", "prompt": "SELECT", "max_tokens": 2}
    headers = {"Authorization": f"Bearer {vllm_server.api_key}"}
    with httpx.Client(base_url=vllm_server.url, headers=headers, timeout=60, trust_env=False) as client:
        assert client.post("/v1/completions", json=body | bad).status_code == 400
        assert client.post("/v1/completions", json=body).status_code == 200


def test_row_18_a_cached_prefix_is_found_by_its_own_salt_alone(vllm_server: VllmServer):
    columns = ", ".join(f"column_{number} INTEGER" for number in range(60))
    prompt = f"Schema:\nCREATE TABLE secret ({columns})\nQuestion: How many?\nSQL:"

    async def main() -> None:
        async with engine_of(vllm_server) as engine:

            async def hits(salt: str | None) -> float:
                before = metric(vllm_server, "prefix_cache_hits_total")
                await engine.generate([prompt], Options(max_new_tokens=2, cache_salt=salt))
                return metric(vllm_server, "prefix_cache_hits_total") - before

            assert await hits("ann's") == 0
            assert await hits("bob's") == 0, "nothing tells bob that ann has asked"
            assert await hits("ann's") > 100
            assert await hits(None) == 0

    asyncio.run(main())


def test_row_19_a_cancelled_request_is_aborted_on_the_server(vllm_server: VllmServer):
    async def main() -> None:
        endless = Options(max_new_tokens=900, temperature=2.0, seed=1)
        async with engine_of(vllm_server) as engine:
            tasks = [asyncio.create_task(engine.generate([prompt], endless)) for prompt in PROMPTS[:6]]
            async with engine.stream(PROMPTS[0], endless) as chunks:
                await anext(chunks)
                for task in tasks:
                    task.cancel()
            deadline = time.monotonic() + 5
            while await asyncio.to_thread(metric, vllm_server, "num_requests_running") > 0:
                assert time.monotonic() < deadline, "vLLM goes on with what nobody waits for"
                await asyncio.sleep(0.1)
            assert engine.load().running == 0

    asyncio.run(main())


@pytest.fixture(scope="module")
def adapter(taught_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the taught model that changes its answers; its base is named by the setting alone."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from text2sql.training.model import quiet

    folder = tmp_path_factory.mktemp("adapter") / "tuned"
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "gate_proj", "down_proj"], task_type="CAUSAL_LM")
    with quiet():
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(taught_model), config)
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights, std=0.05)
        model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(taught_model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def api(adapter: Path, taught_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The API over a vLLM of its own, which serves the adapter on its base, in fp32 as Transformers here."""
    words = ["--engine", "vllm", "--model", str(adapter), "--vllm-arg=--dtype float32"]
    words += ["--set", f"base={taught_model}", "--set", f"request_timeout={SECONDS}"]
    with command(tmp_path_factory.mktemp("api") / "vllm.log", *words) as served:
        served.wait_for("/readyz")
        yield served


def test_an_adapter_answers_on_its_base_as_with_transformers(api: Command, adapter: Path, taught_model: Path):
    from text2sql.serving.transformers_engine import TransformersEngine

    async def main() -> None:
        source = ModelSection(name=str(adapter))
        async with VllmEngine(api.vllm()[1], tokenizer=source) as engine:
            assert (engine.name, engine.max_tokens) == ("tuned", 1024)
            found = await engine.generate(PROMPTS, ANSWER)
        async with TransformersEngine(adapter, base=taught_model) as ours:
            assert found == await ours.generate(PROMPTS, ANSWER), "texts, token counts and finish reasons"
        async with TransformersEngine(taught_model) as base:
            assert found != await base.generate(PROMPTS, ANSWER)

    asyncio.run(main())


def test_kill_9_under_load_is_an_error_for_some_and_the_service_returns_by_itself(api: Command):
    """Through the API alone, and then the end of it all. The last test here: it ends the server."""
    body = {"question": "What is the age of ship 1?", "schema_text": SCHEMA}
    killed = 0

    def ask(number: int) -> tuple[int, float]:
        begun = time.monotonic()
        question = f"What is the age of ship {number}?"
        reply = httpx.post(f"{api.url}/generate", json=body | {"question": question}, timeout=60, trust_env=False)
        return reply.status_code, time.monotonic() - begun

    before = httpx.post(f"{api.url}/generate", json=body, timeout=60, trust_env=False).json()
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        calls = [pool.submit(ask, number) for number in range(64)]
        concurrent.futures.wait(calls, return_when=concurrent.futures.FIRST_COMPLETED)
        killed = api.vllm()[0]
        os.killpg(killed, signal.SIGKILL)
        ends = [call.result() for call in calls]
    assert {status for status, _ in ends} == {200, 503}
    assert max(seconds for _, seconds in ends) < SECONDS + 2
    said = httpx.get(f"{api.url}/readyz", timeout=10, trust_env=False)
    assert (said.status_code, said.json()["error"]["message"]) == (503, "the engine is gone")
    assert httpx.post(f"{api.url}/generate", json=body, timeout=60, trust_env=False).status_code == 503

    api.wait_for("/readyz")
    assert api.vllm()[0] != killed
    after = httpx.post(f"{api.url}/generate", json=body, timeout=60, trust_env=False)
    assert (after.status_code, after.json()["sql"]) == (200, before["sql"])
    assert api.stop() == 0


def _words(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _address_of_this_machine() -> str:
    """One that is not loopback, if there is one; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])
