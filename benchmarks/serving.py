"""Requests a second and latency over real HTTP, against the usual recipe: one `generate` at a time behind FastAPI.

    PYTHONPATH=. python benchmarks/serving.py [--clients 16] [--requests 160] [--rounds 3]

Same machine, model, prompts and answers. Beside the recipe stand our API (`serve`, its guard included), vLLM (`serve
--mode vllm`), and our API on that vLLM, each as its command starts it; the clients run in this process, all on the same
cores. Every round asks new questions, about schemas of which some were seen before, since every server but the recipe
remembers what it has read. The recipe runs with torch's own number of threads and with one, and the faster of a round
counts. Rounds go through all servers in turn, and the median of the ratios of a round counts, so that a machine that is
busy with something else for a while does not decide. The claim: at least 4 times the requests a second. vLLM is
left out where `make vllm` was not run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from text2sql.serving.supervisor import free_port

PROJECT = Path(__file__).parents[1]
CONFIG = PROJECT / "configs" / "tiny.yaml"
BASE = PROJECT / "assets" / "tiny-mistral"
NAME = "tiny"
VLLM = PROJECT / ".venv-vllm" / "bin" / "python"
TOKENS = 128
CLAIM = 4.0


def recipe(folder: Path) -> Any:
    """FastAPI around model.generate, as tutorials have it: the handler blocks until its answer is there."""
    import torch
    from fastapi import Body, FastAPI

    from text2sql.training.model import load_for_inference

    model, tokenizer = load_for_inference(folder)
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


def serve_recipe(folder: Path, port: int, threads: int) -> None:
    import torch
    import uvicorn

    if threads:
        torch.set_num_threads(threads)
    uvicorn.run(recipe(folder), host="127.0.0.1", port=port, log_level="warning")


@dataclass(frozen=True)
class Server:
    """Where it listens, and how a row is put to it."""

    url: str
    path: str
    body: Callable[[Row], dict[str, Any]]


def completion(row: Row) -> dict[str, Any]:
    return {"model": NAME, "prompt": row.prompt, "max_tokens": TOKENS, "temperature": 0}


def chat(row: Row) -> dict[str, Any]:
    """The same prompt, made by the API itself, which asks once more where the guard finds a fault."""
    messages = [{"role": "system", "content": row.context}, {"role": "user", "content": row.question}]
    return {"model": NAME, "messages": messages, "max_tokens": TOKENS}


@contextlib.contextmanager
def running(name: str, health: str, *words: str) -> Iterator[str]:
    """The address of a server: this Python with these words, and a free port."""
    port = free_port()
    process = subprocess.Popen([sys.executable, *words, "--port", str(port)], cwd=PROJECT, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}{health}", trust_env=False).is_success:
                    break
            if process.poll() is not None:
                raise SystemExit(f"{name} ended with {process.returncode}")
            time.sleep(0.2)
        print(f"{name} answers", file=sys.stderr)
        yield url
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()  # the recipe's handler blocks, and may hear no other signal
        process.wait()


def start_all(stack: contextlib.ExitStack, arguments: argparse.Namespace) -> dict[str, Server]:
    """The recipe, our API, and where it is installed vLLM, alone and behind our API; all by real commands."""
    model = str(model_folder(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
    api = ("-m", "text2sql", "serve", "--model", model, "--set", f"batch_size={arguments.clients}")
    servers = {}
    for threads in arguments.recipe_threads:
        name = f"recipe, {threads or 'all'} threads"
        url = stack.enter_context(
            running(name, "/health", __file__, "--serve-recipe", model, "--threads", str(threads))
        )
        servers[name] = Server(url, "/v1/completions", completion)
    servers["our API"] = Server(stack.enter_context(running("our API", "/readyz", *api)), "/v1/chat/completions", chat)
    if VLLM.exists() and not arguments.without_vllm:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        own = ("--mode", "vllm", "--set", f"vllm_log={folder}/vllm.log", f"--vllm-arg={arguments.vllm}")
        vllm = stack.enter_context(running("vLLM", "/health", *api, *own))
        servers["vLLM"] = Server(vllm, "/v1/completions", completion)
        url = stack.enter_context(
            running("our API on vLLM", "/readyz", *api, "--engine", "vllm", "--set", f"engine_url={vllm}")
        )
        servers["our API on vLLM"] = Server(url, "/v1/chat/completions", chat)
    return servers


@dataclass(frozen=True)
class Row:
    """A question, and the prompt that it becomes."""

    context: str
    question: str

    @property
    def prompt(self) -> str:
        from text2sql.data.prompt import render_prompt

        return render_prompt(settings().data.prompt_template, self.context, self.question)


def settings(*overrides: str) -> Any:
    from text2sql.config_file import load_settings

    return load_settings(CONFIG, list(overrides))


def model_folder(parent: Path) -> Path:
    """The embedded base, which wants to be asked as what `make train` makes of it."""
    from text2sql.training.recipe import recipe_of, write_recipe

    folder = parent / NAME
    shutil.copytree(BASE, folder)
    write_recipe(folder, recipe_of(settings()))
    return folder


def rows(count: int) -> list[Row]:
    """Of the part of the generator that the embedded base knows, so that few answers need a repair."""
    from text2sql.data.load import load_rows

    found = load_rows(settings(f"data.synthetic.rows={count}", "data.synthetic.profile=base").data)
    return [Row(*pair) for pair in zip(found["context"][:], found["question"][:], strict=True)][:count]


@dataclass(frozen=True)
class Turn:
    """All rows put to one server: seconds in all, seconds of each, and the answers."""

    total: float
    each: list[float]
    texts: list[str]


async def ask_all(server: Server, asked: list[Row], clients: int) -> Turn:
    """Each client asks again as soon as it was answered."""
    todo = iter([(number, server.body(row)) for number, row in enumerate(asked)])
    each, texts = [0.0] * len(asked), [""] * len(asked)
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=limits, trust_env=False) as http:

        async def client() -> None:
            for number, body in todo:
                begun = time.perf_counter()
                reply = await http.post(server.path, json=body)
                reply.raise_for_status()
                each[number] = time.perf_counter() - begun
                [choice] = reply.json()["choices"]
                text = choice["text"] if "text" in choice else choice["message"]["content"] or ""
                texts[number] = text.strip()

        begun = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return Turn(time.perf_counter() - begun, each, texts)


def rank(values: list[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def compare(arguments: argparse.Namespace) -> dict[str, list[Turn]]:
    asked = rows(arguments.requests * (arguments.rounds + 1))
    first, *rounds = (asked[at : at + arguments.requests] for at in range(0, len(asked), arguments.requests))
    with contextlib.ExitStack() as stack:
        servers = start_all(stack, arguments)
        for server in servers.values():
            asyncio.run(ask_all(server, first, arguments.clients))  # warm up: vLLM's first shapes take seconds
        found: dict[str, list[Turn]] = {name: [] for name in servers}
        for number, asked in enumerate(rounds, 1):
            for name, server in servers.items():
                turn = asyncio.run(ask_all(server, asked, arguments.clients))
                found[name].append(turn)
                print(f"round {number}, {name}: {len(asked) / turn.total:.1f} requests/s", file=sys.stderr)
    return found


def figures_of(found: dict[str, list[Turn]], requests: int) -> dict[str, dict[str, Any]]:
    recipes = [turns for name, turns in found.items() if name.startswith("recipe")]
    best = [min(turn.total for turn in turns) for turns in zip(*recipes, strict=True)]
    expected = recipes[0][-1].texts
    figures = {}
    for name, turns in found.items():
        latencies = [value for turn in turns for value in turn.each]
        ratios = [against / turn.total for against, turn in zip(best, turns, strict=True)]
        figures[name] = {
            "requests/s": statistics.median(requests / turn.total for turn in turns),
            **{f"p{share} ms": 1000 * rank(latencies, share / 100) for share in (50, 95, 99)},
            "same answers": sum(a == b for a, b in zip(turns[-1].texts, expected, strict=True)) / len(expected),
            "ratio": statistics.median(ratios),
            "ratios": ratios,
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput and latency of the engines beside the usual recipe.")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=160, help="a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recipe-threads", type=int, nargs="+", default=[0, 1], help="torch threads to try; 0: all")
    parser.add_argument("--vllm", default="--dtype float32", help="arguments for vLLM (default: %(default)s)")
    parser.add_argument("--without-vllm", action="store_true")
    parser.add_argument("--json", action="store_true", help="figures on stdout as JSON")
    parser.add_argument("--serve-recipe", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_recipe:
        serve_recipe(arguments.serve_recipe, arguments.port, arguments.threads)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of every `finally`: no server is left
    figures = figures_of(compare(arguments), arguments.requests)
    if arguments.json:
        print(json.dumps(figures))
        return
    print(f"{arguments.requests} requests by {arguments.clients} clients, {arguments.rounds} rounds")
    columns = [column for column in next(iter(figures.values())) if column != "ratios"]
    print(f"{'':<20}" + "".join(f"{column:>14}" for column in columns) + "  ratio of each round")
    for name, row in figures.items():
        rounds = " ".join(f"{ratio:.2f}" for ratio in row["ratios"])
        print(f"{name:<20}" + "".join(f"{row[column]:>14.2f}" for column in columns) + f"  {rounds}")
    for name in (name for name in figures if not name.startswith("recipe")):
        verdict = "holds" if figures[name]["ratio"] >= CLAIM else "DOES NOT HOLD"
        print(f"{name}: {figures[name]['ratio']:.1f} times the recipe; the claim of {CLAIM:g} {verdict}")


if __name__ == "__main__":
    main()
