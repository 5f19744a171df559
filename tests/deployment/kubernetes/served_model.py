"""A server in a pod that behaves as it is told: healthy, slow, wrong, or one that dies. Standard library alone.

The stand-in of the API server calls `reply`; in a real cluster this file is the pod's program.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def reply(path: str, body: bytes, behaviour: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON."""
    if path == "/readyz":
        return 200, {"status": "ok"}
    if path != "/generate":
        return 404, {"error": {"message": "there is nothing at this path"}}
    question = json.loads(body)["question"]
    sql = "SELECT 2" if behaviour == "wrong" else f"SELECT c{question.split()[-1]} FROM t"
    return 200, {"sql": sql, "valid": True, "candidates": [{"sql": sql}]}


def handler_of(behaviour: str, version: str) -> type[BaseHTTPRequestHandler]:
    """For a server of one pod's program."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(b"")

        def do_POST(self) -> None:
            self._send(self.rfile.read(int(self.headers["Content-Length"])))

        def _send(self, body: bytes) -> None:
            status, said = reply(self.path, body, behaviour)
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("X-Model-Version", version)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler


if __name__ == "__main__":
    if os.environ["BEHAVIOUR"] == "crash":
        sys.exit("error: the model cannot be loaded")
    if os.environ["BEHAVIOUR"] == "slow":
        time.sleep(20)
    ThreadingHTTPServer(("", 8000), handler_of(os.environ["BEHAVIOUR"], os.environ["VERSION"])).serve_forever()
