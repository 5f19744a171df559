"""A small HTTP server with children of its own in vLLM's place, under our supervisor: as real, and up at once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from text2sql.serving.checkpoint import Checkpoint
from text2sql.serving.supervisor import VllmOptions, VllmServer

STAND_IN = """
import http.server, json, os, pathlib, subprocess, sys, time
port, folder, mode = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
starts = folder / "starts"
starts.write_text(str(int(starts.read_text()) + 1 if starts.exists() else 1))
(folder / "environment").write_text(json.dumps(dict(os.environ)))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
with (folder / "pids").open("a") as file:
    file.write(f"{os.getpid()}\\n{child.pid}\\n")
print("loading weights", flush=True)
if mode == "cannot compile" and "TORCH_COMPILE_DISABLE" not in os.environ:
    raise ValueError("InductorError: no space left")
if mode == "dies" or (mode == "dies for a while" and 1 < int(starts.read_text()) < 6):
    raise ValueError("no such weights")
if mode == "hangs":
    time.sleep(600)
if mode == "loads slowly":
    time.sleep(2)
asked = 0
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        self.send_response(200); self.end_headers()
        busy = mode in ("works", "makes no token") and int(starts.read_text()) == 1
        made = asked if mode == "works" else 7
        if self.path == "/metrics":
            self.wfile.write(f'vllm:num_requests_running{{engine="0"}} {2.0 * busy}\\n'
                             f'vllm:generation_tokens_total{{engine="0"}} {made}.0\\n'.encode())
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


class StandIn(VllmServer):
    mode = "serves"

    def command(self, _: Checkpoint) -> list[str]:
        folder = self.options.log.parent
        script = folder / "stand_in.py"
        script.write_text(STAND_IN)
        return [sys.executable, "-I", str(script), str(self.port), str(folder), self.mode]


def stand_in(folder: Path, mode: str = "serves", **options: Any) -> StandIn:
    values = {"python": Path(sys.executable), "log": folder / "vllm.log", "grace_seconds": 5.0, "backoff_seconds": 0.05}
    server = StandIn(lambda: Checkpoint("model", folder), VllmOptions(**(values | options)))  # type: ignore[arg-type]
    server.mode = mode
    return server


def alive(folder: Path) -> list[int]:
    """Which processes that a stand-in told of still run."""
    found = []
    for pid in (folder / "pids").read_text().split():
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(int(pid))
    return found


def supervised(server: VllmServer, work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await server.start()
        try:
            await work()
        finally:
            await server.stop()

    asyncio.run(main())
