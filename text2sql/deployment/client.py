"""The gateway as whoever deploys has it: started, asked, told what to do, ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from dataclasses import asdict
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from text2sql.deployment.backend import GRACE_SECONDS
from text2sql.deployment.commands import environment, gateway_command
from text2sql.deployment.gateway import Plan
from text2sql.deployment.state import StateFolder, is_alive, last_words, read_json, write_json
from text2sql.errors import DeploymentError

ORDER_SECONDS = 30.0
START_SECONDS = 60.0
"""For its start, most of which is imports."""
POLL_SECONDS = 0.1


class _Connection(HTTPConnection):
    """To a Unix socket. Not httpx's, which leaves the socket of a failed attempt to the garbage collector."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("gateway", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class GatewayClient:
    """Over the gateway of a state folder, which need not run."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder

    @property
    def log(self) -> Path:
        return self._folder.logs / "gateway.log"

    def kept(self) -> dict[str, Any]:
        """What it has written down; {} where there never was one."""
        return read_json(self._folder.state)

    def told(self) -> dict[str, Any] | None:
        """Its status; None where it does not run."""
        if not is_alive(*_named(self.kept())):
            return None
        try:
            return self.order("status", method="GET")
        except DeploymentError:
            return None

    def order(
        self, what: str, body: dict[str, Any] | None = None, method: str = "POST", seconds: float = ORDER_SECONDS
    ) -> dict[str, Any]:
        """What it says to an order.

        Raises:
            DeploymentError: it cannot be reached, or refuses, with its reason.
        """
        path = self.kept().get("socket")
        if path is None:
            raise DeploymentError("the gateway does not run")
        text = json.dumps(body) if body is not None else None
        try:
            with contextlib.closing(_Connection(path, seconds)) as connection:
                connection.request(method, f"/{what}", text, {"Content-Type": "application/json"})
                reply = connection.getresponse()
                said: dict[str, Any] = json.loads(reply.read())
        except (OSError, HTTPException, ValueError) as error:
            raise DeploymentError(
                f"the gateway does not obey ({what}: {type(error).__name__}); its log is {self.log}"
            ) from error
        if reply.status >= 400:
            raise DeploymentError(str(said.get("error", reply.status)))
        return said

    def start(self, plan: Plan) -> None:
        """Until it takes orders.

        Raises:
            DeploymentError: it does not start, with its last words.
        """
        write_json(self._folder.plan, asdict(plan))
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                gateway_command(self._folder.path),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder.path,
                env=environment(),
                start_new_session=True,  # it outlives whoever deploys
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise DeploymentError(f"the gateway does not start: {last_words(self.log)}")
            if self.told() is not None:
                # A daemon has no parent that waits for it, and this process no child to leave a zombie.
                process.returncode = 0
                return
            time.sleep(POLL_SECONDS)
        process.kill()
        process.wait()
        raise DeploymentError(f"the gateway did not start within {START_SECONDS:g} s: {last_words(self.log)}")

    def end(self, drain_seconds: float) -> bool:
        """Whether one ran. Requests under way are finished first, and its servers end with it.

        Raises:
            DeploymentError: not even a kill ends it.
        """
        pid, started = _named(self.kept())
        if not is_alive(pid, started):
            return False
        seconds = drain_seconds + 2 * GRACE_SECONDS
        with contextlib.suppress(DeploymentError):  # a signal will do
            self.order("stop")
        for number in (signal.SIGTERM, signal.SIGKILL):
            if _gone(pid, started, seconds):
                return True
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            seconds = ORDER_SECONDS
        if not _gone(pid, started, seconds):
            raise DeploymentError(f"the gateway (process {pid}) does not end; its log is {self.log}")
        return True


def _named(kept: dict[str, Any]) -> tuple[int, str]:
    """The process that wrote this, by number and start."""
    return int(kept.get("pid", 0)), str(kept.get("started", ""))


def _gone(pid: int, started: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_alive(pid, started):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
