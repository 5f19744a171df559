"""Row 21: the probe of vLLM's container tells an engine that works from one that only answers."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PROBE = Path(__file__).parents[2] / "k8s" / "base" / "vllm_gets_on.py"


@dataclass
class Vllm:
    """Its health check and counters, with labels and comments as vLLM writes them."""

    health: int = 200
    running: int = 0
    tokens: float = 10.0
    url: str = ""

    def metrics(self) -> str:
        labels = 'engine="0",model_name="m{x} y"'
        return (
            "# HELP vllm:num_requests_running Running.\n"
            f"vllm:num_requests_running{{{labels}}} {float(self.running)}\n"
            f"vllm:num_requests_waiting{{{labels}}} 0.0\n"
            f"vllm:prompt_tokens_total{{{labels}}} 1e3\n"
            f"vllm:generation_tokens_total{{{labels}}} {self.tokens}\n"
            f"vllm:generation_tokens_created{{{labels}}} 1.7e9\n"
        )


@pytest.fixture
def vllm() -> Iterator[Vllm]:
    state = Vllm()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = state.metrics().encode() if self.path == "/metrics" else b""
            self.send_response(state.health)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def probe(vllm: Vllm, folder: Path, seconds: float) -> tuple[int, str]:
    command = [sys.executable, "-I", str(PROBE), vllm.url, str(folder / "seen.json"), str(seconds)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return run.returncode, run.stderr.strip()


def test_work_without_tokens_is_a_fault_after_a_while(vllm: Vllm, tmp_path: Path):
    assert probe(vllm, tmp_path, 0.0) == (0, "")
    assert probe(vllm, tmp_path, 0.0) == (0, ""), "idle is no fault"
    vllm.running = 2
    assert probe(vllm, tmp_path, 60.0) == (0, ""), "not yet"
    code, words = probe(vllm, tmp_path, 0.0)
    assert code == 1
    assert words.startswith("it has work, and made no token for ")
    vllm.tokens += 1
    assert probe(vllm, tmp_path, 0.0) == (0, "")


def test_one_that_does_not_answer_is_none(vllm: Vllm, tmp_path: Path):
    vllm.health = 503
    assert probe(vllm, tmp_path, 60.0)[0] == 1
    vllm.url = "http://127.0.0.1:9"
    code, words = probe(vllm, tmp_path, 60.0)
    assert code == 1
    assert "it does not answer" in words


def test_a_file_that_is_spoilt_is_begun_anew(vllm: Vllm, tmp_path: Path):
    (tmp_path / "seen.json").write_text("{")
    vllm.running = 1
    assert probe(vllm, tmp_path, 0.0) == (0, "")
