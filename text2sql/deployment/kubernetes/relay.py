"""Services of the cluster as addresses on loopback, for who deploys from outside: through the API server's own proxy.

Whoever may use the API server reaches a Service by it, and no other door is needed. It keeps the Authorization header
to itself, so the server's key travels as X-API-Key.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from text2sql.deployment.kubernetes.api import Answer, Cluster

PASSED = ("Content-Type", "Accept", "X-Request-ID")
RETURNED = ("Content-Type", "X-Model-Version", "X-Request-ID", "Retry-After")
SECONDS = 120.0


class Relay:
    """A server of this process; ends with it. Nobody else should use it: it lends our credentials to its callers, for
    the routes of one Service, on a port of loopback that nobody is told."""

    def __init__(self, cluster: Cluster, service: str, port: str = "http") -> None:
        place = f"/api/v1/namespaces/{cluster.namespace}/services/http:{service}:{port}/proxy"

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet: the second would wait for an acknowledgement

            def do_GET(self) -> None:
                self._pass_on(None)

            def do_POST(self) -> None:
                self._pass_on(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

            def _pass_on(self, body: bytes | None) -> None:
                headers = {name: self.headers[name] for name in PASSED if name in self.headers}
                key = self.headers.get("Authorization", "").removeprefix("Bearer ")
                if key:
                    headers["X-API-Key"] = key
                try:
                    self._reply(cluster.send(self.command, place + self.path, body, headers, SECONDS))
                except OSError as error:
                    self._reply(Answer(503, str(error).encode(), {"Retry-After": "1"}))

            def _reply(self, answer: Answer) -> None:
                self.send_response(answer.status)
                for name in RETURNED:
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *_: object) -> None:
                """Not on the terminal of who deploys."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="relay", daemon=True)
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
