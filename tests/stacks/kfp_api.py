"""A small Kubeflow Pipelines on loopback: experiments, runs, recurring runs. It runs each step of a run as the process
that its container would be, and misbehaves on demand.
"""

from __future__ import annotations

import json
import os
import re
import threading
import uuid
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.stacks.processes import python

API = "/apis/v2beta1"
DROP = "drop"
"""An answer that never comes: the connection is closed."""


def _without_zenml(environment: Mapping[str, str]) -> dict[str, str]:
    """What these tests have set for themselves is not set in a pod."""
    return {name: value for name, value in environment.items() if not name.startswith("ZENML_")}


class KfpApi:
    """State by kind and id, requests as they came, and answers that replace the right one, each used once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        """Of every step, besides what its container asks for."""
        self.state: dict[str, dict[str, dict[str, Any]]] = {"experiments": {}, "runs": {}, "recurringruns": {}}
        self.requests: list[tuple[str, str, Any]] = []
        self.faults: list[tuple[str, str, int | str]] = []
        """(method, regular expression for the path, status or DROP)"""
        self.ran: dict[str, list[str]] = {}
        """Steps by run, in the order in which they ran."""
        self.logs: list[str] = []
        self.cold = {"detect_changes"}
        """Steps that start as their pods would: a new interpreter."""
        self._threads: list[threading.Thread] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._serving = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._serving.start()

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        for thread in self._threads:
            thread.join()
        self._server.shutdown()
        self._server.server_close()
        self._serving.join()

    def fire(self, recurring: str) -> str:
        """Start a run as the clock would; its id, once it has ended."""
        run = self._start({"display_name": "fired", **self.state["recurringruns"][recurring]})
        self._threads[-1].join()
        return str(run["run_id"])

    def answer(self, method: str, path: str, body: Any) -> tuple[int | str, Any]:
        self.requests.append((method, path, body))
        for fault in self.faults:
            if fault[0] == method and re.search(fault[1], path):
                self.faults.remove(fault)
                return fault[2], {"error": "as the test wants it"}
        kind, _, rest = path.partition("?")[0].removeprefix(f"{API}/").partition("/")
        if kind == "healthz":
            return 200, {"multi_user": False}
        name, _, verb = rest.partition(":")
        if method == "POST" and not name:
            return 200, self._create(kind, body)
        if not name:
            return 200, {
                kind.replace("runs", "Runs"): list(self.state[kind].values()),
                "total_size": len(self.state[kind]),
            }
        if name not in self.state[kind]:
            return 404, {"error": f"no {kind} {name}"}
        there = self.state[kind][name]
        if verb == "terminate":
            there["state"] = "CANCELED"
        if verb in ("enable", "disable"):
            there["status"] = f"{verb.upper()}D"
        return 200, self.state[kind].pop(name) if method == "DELETE" else there

    def _create(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        if kind == "runs":
            return self._start(body)
        key = {"experiments": "experiment_id", "recurringruns": "recurring_run_id"}[kind]
        there = {**body, key: str(uuid.uuid4())}
        self.state[kind][there[key]] = there
        return there

    def _start(self, body: dict[str, Any]) -> dict[str, Any]:
        run = {**body, "run_id": str(uuid.uuid4()), "state": "RUNNING"}
        self.state["runs"][run["run_id"]] = run
        self._threads.append(threading.Thread(target=self._execute, args=(run,)))
        self._threads[-1].start()
        return run

    def _execute(self, run: dict[str, Any]) -> None:
        """Each task once those before it are done; a run that is ended starts no more of them."""
        spec = run["pipeline_spec"]["pipeline_spec"]
        waiting = dict(spec["root"]["dag"]["tasks"])
        done = self.ran.setdefault(run["run_id"], [])
        while waiting and run["state"] == "RUNNING":
            ready = next(name for name, task in waiting.items() if set(task.get("dependentTasks", ())) <= set(done))
            component = spec["components"][waiting.pop(ready)["componentRef"]["name"]]
            container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
            if not self._run_container(container, run):
                run.update(state="FAILED", error={"code": 9, "message": f"{ready} failed"})
            done.append(ready)
        if run["state"] == "RUNNING":
            run["state"] = "SUCCEEDED"

    def _run_container(self, container: dict[str, Any], run: dict[str, Any]) -> bool:
        placeholders = {"{{$.pipeline_job_name}}": run["run_id"][:13], "{{$.pipeline_job_uuid}}": run["run_id"]}
        environment = {entry["name"]: placeholders.get(entry["value"], entry["value"]) for entry in container["env"]}
        interpreter, *command = container["command"]
        assert interpreter == "python"
        words = [*command, *container["args"]]
        cold = any(word in self.cold for word in words)
        done = python(words, {**_without_zenml(os.environ), **environment, **self.environment}, cold)
        self.logs.append(done.stdout[-3000:] + done.stderr[-3000:])
        return done.returncode == 0

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                status, answer = owner.answer(self.command, self.path, body)
                if status == DROP:
                    self.close_connection = True
                    return
                data = json.dumps(answer).encode()
                self.send_response(int(status))
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = _serve  # noqa: N815

            def log_message(self, *_arguments: object) -> None:
                pass

        return Handler
