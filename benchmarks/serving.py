"""Requests a second and latency: our engines against the usual recipe, one `generate` at a time behind FastAPI.

    PYTHONPATH=. python benchmarks/serving.py [--clients 16] [--requests 320] [--rounds 3]

Same machine, model, prompts and answers; each server in a process of its own, the clients in this one, all on the
same cores. The recipe runs with torch's own number of threads and with one, and the faster of a round counts. Rounds
go through all servers in turn, and the median of the ratios of a round counts, so that a machine that is busy with
something else for a while does not decide. The claim: at least 4 times the recipe's requests a second, by the
Transformers engine and by vLLM (left out where `make vllm` was not run).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx

from text2sql.serving.supervisor import VllmOptions, VllmServer, free_port

PROJECT = Path(__file__).parents[1]
CONFIG = PROJECT / "configs" / "tiny.yaml"
MODEL = PROJECT / "assets" / "tiny-mistral"
VLLM = PROJECT / ".venv-vllm" / "bin" / "python"
TOKENS = 128
CLAIM = 4.0


def recipe() -> Any:
    """FastAPI around model.generate, as tutorials have it: the handler blocks until its answer is there."""
    import torch
    from fastapi import Body, FastAPI

    from text2sql.training.model import load_for_inference

    model, tokenizer = load_for_inference(MODEL)
    app = FastAPI()

    @app.get("/health")
    async def health() -> None: ...

    @app.post("/v1/completions")
    async def completions(prompt: str = Body(embed=True)) -> dict[str, Any]:
        inputs = tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        text = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return {"choices": [{"text": text}]}

    return app


def engine(clients: int) -> Any:
    """The same around our Transformers engine."""
    from fastapi import Body, FastAPI

    from text2sql.serving.engine import Options
    from text2sql.serving.scheduler import Limits
    from text2sql.serving.transformers_engine import TransformersEngine

    engine = TransformersEngine(MODEL, limits=Limits(batch_size=clients))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with engine:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/health")
    async def health() -> None: ...

    @app.post("/v1/completions")
    async def completions(prompt: str = Body(embed=True)) -> dict[str, Any]:
        [[completion]] = await engine.generate([prompt], Options(max_new_tokens=TOKENS))
        return {"choices": [{"text": completion.text}]}

    return app


def serve(kind: str, port: int, threads: int, clients: int) -> None:
    import torch
    import uvicorn

    if threads:
        torch.set_num_threads(threads)
    app = recipe() if kind == "recipe" else engine(clients)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


@contextlib.contextmanager
def running(kind: str, threads: int, clients: int) -> Iterator[str]:
    """The address of one of the two servers above."""
    port = free_port()
    command = [sys.executable, __file__, "--serve", kind, "--port", str(port), "--threads", str(threads)]
    process = subprocess.Popen([*command, "--clients", str(clients)])
    try:
        url = f"http://127.0.0.1:{port}"
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health", trust_env=False).is_success:
                    break
            if process.poll() is not None:
                raise SystemExit(f"the {kind} server ended with {process.returncode}")
            time.sleep(0.2)
        yield url
    finally:
        process.kill()  # nothing to lose, and a handler that blocks hears no other signal
        process.wait()


def prompts(count: int) -> list[str]:
    """Rows of the generator, rendered as for training."""
    from text2sql.config_file import load_settings
    from text2sql.data.load import load_rows
    from text2sql.data.prompt import render_prompt

    data = load_settings(CONFIG, [f"data.synthetic.rows={count}"]).data
    rows = load_rows(data)
    pairs = zip(rows["context"][:], rows["question"][:], strict=True)
    return [render_prompt(data.prompt_template, context, question) for context, question in pairs][:count]


async def ask_all(
    url: str, asked: list[str], clients: int, more: dict[str, Any]
) -> tuple[float, list[float], list[str]]:
    """Seconds in all, seconds of each request, and the answers; each client asks again as soon as it was answered."""
    todo = iter(enumerate(asked))
    seconds, texts = [0.0] * len(asked), [""] * len(asked)
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits, trust_env=False) as http:

        async def client() -> None:
            for row, prompt in todo:
                begun = time.perf_counter()
                reply = await http.post("/v1/completions", json={"prompt": prompt, **more})
                reply.raise_for_status()
                seconds[row] = time.perf_counter() - begun
                texts[row] = reply.json()["choices"][0]["text"].strip()

        begun = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return time.perf_counter() - begun, seconds, texts


def rank(values: list[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


async def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    asked = prompts(arguments.requests)
    found: dict[str, list[tuple[float, list[float], list[str]]]] = {}
    async with contextlib.AsyncExitStack() as stack:
        servers: dict[str, tuple[str, dict[str, Any]]] = {}
        for threads in arguments.recipe_threads:
            address = stack.enter_context(running("recipe", threads, arguments.clients))
            servers[f"recipe, {threads or 'all'} threads"] = (address, {})
        servers["ours"] = (stack.enter_context(running("engine", 0, arguments.clients)), {})
        if VLLM.exists() and not arguments.without_vllm:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            options = VllmOptions(python=VLLM, log=folder / "vllm.log", arguments=tuple(arguments.vllm.split()))
            vllm = VllmServer(MODEL, options, progress=lambda line: print(line, file=sys.stderr))
            await vllm.start()
            stack.push_async_callback(vllm.stop)
            servers["vLLM"] = (vllm.url, {"model": MODEL.name, "max_tokens": TOKENS, "temperature": 0})
        for name, (url, more) in servers.items():
            await ask_all(url, asked[: arguments.clients], arguments.clients, more)  # warm up
            found[name] = []
        for _ in range(arguments.rounds):
            for name, (url, more) in servers.items():
                found[name].append(await ask_all(url, asked, arguments.clients, more))
                print(f"{name}: {len(asked) / found[name][-1][0]:.1f} requests/s", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput and latency of the engines beside the usual recipe.")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recipe-threads", type=int, nargs="+", default=[0, 1], help="torch threads to try; 0: all")
    parser.add_argument("--vllm", default="--dtype float32", help="arguments for vLLM (default: %(default)s)")
    parser.add_argument("--without-vllm", action="store_true")
    parser.add_argument("--json", action="store_true", help="figures on stdout as JSON")
    parser.add_argument("--serve", choices=("recipe", "engine"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.port, arguments.threads, arguments.clients)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of every `finally`: no server is left
    found = asyncio.run(compare(arguments))
    recipes = [name for name in found if name.startswith("recipe")]
    best = [min(found[name][turn][0] for name in recipes) for turn in range(arguments.rounds)]
    expected = found[recipes[0]][0][2]
    figures = {}
    for name, turns in found.items():
        latencies = [value for _, seconds, _ in turns for value in seconds]
        ratios = [against / total for against, (total, _, _) in zip(best, turns, strict=True)]
        figures[name] = {
            "requests/s": statistics.median(arguments.requests / total for total, _, _ in turns),
            **{f"p{share} ms": 1000 * rank(latencies, share / 100) for share in (50, 95, 99)},
            "ratio": statistics.median(ratios),
            "same answers": sum(a == b for a, b in zip(turns[-1][2], expected, strict=True)) / len(expected),
        }
    if arguments.json:
        print(json.dumps(figures))
        return
    print(f"{arguments.requests} requests by {arguments.clients} clients, {arguments.rounds} rounds")
    print(f"{'':<18}" + "".join(f"{column:>14}" for column in figures[recipes[0]]))
    for name, row in figures.items():
        print(f"{name:<18}" + "".join(f"{value:>14.2f}" for value in row.values()))
    for name in set(figures) - set(recipes):
        verdict = "holds" if figures[name]["ratio"] >= CLAIM else "DOES NOT HOLD"
        print(f"{name}: {figures[name]['ratio']:.1f} times the recipe; the claim of {CLAIM:g} {verdict}")


if __name__ == "__main__":
    main()
