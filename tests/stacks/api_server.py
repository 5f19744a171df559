"""A small Kubernetes API on loopback: it keeps what it is given, answers what it is asked, and misbehaves on demand."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OBJECT = re.compile(r"^/(?:api|apis/[^/]+)/[^/]+(?:/namespaces/(?P<ns>[^/]+))?/(?P<kind>[a-z]+)(?:/(?P<name>[^/?]+))?$")


class ApiServer:
    """State by (namespace, kind), requests as they came, and what is refused."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str | None, str], dict[str, dict[str, Any]]] = {}
        self.requests: list[tuple[str, str]] = []
        self.denied: set[tuple[str, str]] = set()
        """(verb, resource) that an access review answers with no."""
        self.errors: dict[tuple[str, str], int] = {}
        """Status by (method, kind)."""
        self.words = "as the test wants it"
        """The message of those."""
        self.kinds: dict[str, list[dict[str, Any]]] = {}
        """What discovery tells of a group's version, by its path."""
        self.warnings: dict[str, str] = {}
        """What is taken with a warning, by kind."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def client(self) -> Any:
        from kubernetes import client

        return client.ApiClient(client.Configuration(host=self.host))

    def add(self, kind: str, name: str, namespace: str | None = None, **fields: Any) -> None:
        there = self.objects.setdefault((namespace, kind), {})
        there[name] = {"metadata": {"name": name, **fields.pop("metadata", {})}, **fields}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any] | str]:
        """Status, and an object or a text."""
        self.requests.append((method, path))
        path, _, query = path.partition("?")
        if path in self.kinds:
            return 200, {"resources": self.kinds[path]}
        if path.endswith("subjectaccessreviews"):
            asked = body["spec"]["resourceAttributes"]
            allowed = (asked["verb"], asked["resource"]) not in self.denied
            return 201, {**body, "status": {"allowed": allowed}}
        found = OBJECT.match(path)
        if found is None:
            return 404, {"reason": "NotFound", "message": "the server could not find the requested resource"}
        kind = found["kind"]
        if status := self.errors.get((method, kind)):
            return status, {"message": self.words, "reason": "Test"}
        if "dryRun=All" in query:
            return 200, body
        return self._object(method, self.objects.setdefault((found["ns"], kind), {}), found["name"], body)

    @staticmethod
    def _object(
        method: str, there: dict[str, dict[str, Any]], name: str | None, body: Any
    ) -> tuple[int, dict[str, Any]]:
        if method == "POST":
            name = body["metadata"]["name"]
            if name in there:
                return 409, {"reason": "AlreadyExists"}
            there[name] = body
            return 201, body
        if name is None:
            return 200, {"items": list(there.values())}
        if name not in there:
            return 404, {"reason": "NotFound", "message": f"{name} not found"}
        if method == "PATCH":
            there[name] = _merged(there[name], body)
        if method == "DELETE":
            return 200, there.pop(name)
        return 200, there[name]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            wbufsize = -1  # head and body in one packet

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                status, answer = owner.answer(self.command, self.path, body)
                data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                if not isinstance(answer, str) and (warning := owner.warnings.get(str(answer.get("kind")))):
                    self.send_header("Warning", f'299 - "{warning}"')
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _serve  # noqa: N815

            def log_message(self, *_arguments: object) -> None:
                pass

        return Handler


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    merged = {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
    return {key: value for key, value in merged.items() if value is not None}
