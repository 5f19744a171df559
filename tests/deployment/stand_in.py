"""A target in memory, whose servers answer over HTTP what they were told to."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from text2sql.deployment.checks import Question, Tell
from text2sql.deployment.release import Release
from text2sql.deployment.target import Serving, Status
from text2sql.errors import DeploymentError
from text2sql.serving.connection import VERSION_HEADER

QUESTIONS = [Question(f"question {i}", "CREATE TABLE t (c INTEGER)", f"SELECT {i} FROM t", True) for i in range(10)]


@dataclass
class Server:
    """Answers over HTTP what it was told to; `dies_after` questions it breaks off."""

    version: str
    answers: dict[str, str]
    dies_after: int = 10**9
    valid: bool = True
    """What it says of its answers."""
    refuses: tuple[str, ...] = ()
    """Questions that it answers with 422."""
    asked: int = 0

    def __post_init__(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(200, {"status": "ok"})

            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["question"]
                server.asked += 1
                if server.asked > server.dies_after:
                    self.close_connection = True
                    return None
                if question in server.refuses:
                    return self.reply(422, {"error": {"message": "no such table"}})
                sql = server.answers.get(question)
                if sql is None:
                    return self.reply(500, {"error": {"message": "no such question"}})
                return self.reply(200, {"sql": sql, "valid": server.valid, "candidates": [{"sql": sql}]})

            def reply(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header(VERSION_HEADER, server.version)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._http.server_address[1]}"

    def end(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@dataclass
class StandIn:
    """A target in memory. Its stable address is whatever server is current, as a Service's selector has it."""

    faults: dict[str, str] = field(default_factory=dict)
    """Method → what it fails with."""
    next_server: dict[str, Any] = field(default_factory=dict)
    current: Server | None = None
    previous: Server | None = None
    staged: Server | None = None
    before: tuple[Server | None, Server | None] = (None, None)
    alive: list[Server] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.current.address if self.current else "http://127.0.0.1:9"

    entrance = address

    def _may_fail(self, what: str) -> None:
        if what in self.faults:
            raise DeploymentError(self.faults[what])

    def _end(self, server: Server | None) -> None:
        if server is not None:
            self._may_fail("end")
            server.end()
            self.alive.remove(server)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        yield

    def status(self) -> Status:
        found = [Serving(release(s.version), "up", "") if s else None for s in (self.current, self.previous)]
        return Status("stand-in", self.address, *found)

    def recover(self, tell: Tell) -> None:
        """It does not break by itself."""

    def serves(self, wanted: Release) -> bool:
        return self.current is not None and self.current.version == wanted.version

    def stage(self, wanted: Release, folder: Path, tell: Tell) -> str:  # noqa: ARG002
        self._may_fail("stage")
        self.staged = Server(wanted.version, **{"answers": right()} | self.next_server)
        self.alive.append(self.staged)
        self._may_fail("ready")
        return self.staged.address

    def promote(self) -> None:
        self.before = (self.current, self.previous)
        self.current, self.previous, self.staged = self.staged, self.current, None
        self._may_fail("promote")

    def discard(self) -> None:
        staged, self.staged = self.staged, None
        self._end(staged)

    def restore(self) -> None:
        failed = self.current
        self.current, self.previous = self.before
        self._end(failed)

    def settle(self) -> None:
        self._end(self.before[0])

    def rollback(self, tell: Tell) -> Release:
        raise NotImplementedError

    def stop(self, tell: Tell) -> None:  # noqa: ARG002
        self.faults.clear()
        for server in [*self.alive]:
            self._end(server)


def right() -> dict[str, str]:
    return {question.question: question.answer for question in QUESTIONS}


def release(version: str) -> Release:
    return Release("model", version, version * 64, "Gate passed: 1 rule kept", "2026-01-01T00:00:00")
