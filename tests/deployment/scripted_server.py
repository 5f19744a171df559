"""A server behind the gateway for tests, of the standard library alone: it answers what it was told to, or misbehaves.

python scripted_server.py ANSWERS.json --port N
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PLAN: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text("utf-8"))
"""answers: by question; version: what it says it is; dies: seconds after which it ends, before it was ready; slow:
seconds until it listens; asked: how many questions it answers before it dies; pause: seconds that an answer takes;
lingers: seconds that its end takes."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked = 0

    def do_GET(self) -> None:
        ready = self.path.startswith("/readyz")
        self._send(200 if ready else 404, {"status": "ok"} if ready else {"error": {"message": "nothing here"}})

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        Handler.asked += 1
        if Handler.asked > PLAN.get("asked", 10**9):
            os._exit(7)
        if self.path == "/echo":
            said = {"headers": dict(self.headers), "bytes": len(body)}
            return self._send(200, said)
        time.sleep(PLAN.get("pause", 0))
        question = json.loads(body)["question"]
        sql = PLAN.get("answers", {}).get(question, "SELECT 1")
        return self._send(200, {"sql": sql, "valid": True, "candidates": [{"sql": sql}], "model": PLAN.get("version")})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


if "dies" in PLAN:
    time.sleep(PLAN["dies"])
    sys.exit("error: the weights are gone")
time.sleep(PLAN.get("slow", 0))
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(PLAN.get("lingers", 0)), os._exit(0)))
Server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
