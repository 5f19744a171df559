"""A hub on loopback, for huggingface_hub's own client: it keeps repositories, and misbehaves when told to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest


@dataclass
class Hub:
    """Its repositories are folders by name and commit; `main` is the newest."""

    url: str = ""
    commits: dict[str, dict[str, Path]] = field(default_factory=dict)
    """Those of data sets begin with datasets/."""
    fault: str = ""
    """gone, gated, down, truncated: what happens instead."""
    asked: list[str] = field(default_factory=list)

    def goes(self, patch: pytest.MonkeyPatch, url: str = "http://127.0.0.1:9") -> None:
        """The client of this process looks for it there: by default, where nobody is."""
        import huggingface_hub.constants as constants

        patch.setattr(constants, "ENDPOINT", url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")

    def push(self, name: str, folder: Path) -> str:
        """The commit."""
        commits = self.commits.setdefault(name, {})
        commit = hashlib.sha1(f"{name} {len(commits)}".encode(), usedforsecurity=False).hexdigest()
        commits[commit] = folder
        return commit

    def find(self, name: str, revision: str) -> tuple[str, Path] | None:
        commits = self.commits.get(name, {})
        commit = [*commits][-1] if revision == "main" and commits else revision
        return (commit, commits[commit]) if commit in commits else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(path)
        refusal = {"gone": (401, "RepoNotFound"), "gated": (403, "GatedRepo"), "down": (503, "")}.get(self.hub.fault)
        if refusal is not None:
            return self._say(refusal[0], b"", {"X-Error-Code": refusal[1]} if refusal[1] else {})
        if path.startswith("/api/"):
            sort, owner, repository, *rest = path.removeprefix("/api/").split("/") + [""] * 2
            rest = [part for part in rest if part]
            kind, revision, *folder = rest or ("revision", "main")
            name = f"{owner}/{repository}" if sort == "models" else f"{sort}/{owner}/{repository}"
            found = self.hub.find(name, revision)
            if found is None:
                return self._missing(name)
            if folder:
                return self._say(404, b"", {"X-Error-Code": "EntryNotFound"})
            files = [file for file in found[1].iterdir() if file.is_file()]
            said = {"id": name, "sha": found[0], "siblings": [{"rfilename": file.name} for file in files]}
            tree = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40} for f in files]
            if kind == "paths-info":
                named = parse_qs(self._body().decode()).get("paths", [])
                tree = [file for file in tree if file["path"] in named]
            return self._say(200, json.dumps(said if kind == "revision" else tree).encode(), {})
        name, _, below = path[1:].partition("/resolve/")
        revision, _, file = below.partition("/")
        found = self.hub.find(name, revision)
        if found is None:
            return self._missing(name)
        if not (found[1] / file).is_file():
            return self._say(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": found[0]})
        content = (found[1] / file).read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        return self._say(200, content, {"X-Repo-Commit": found[0], "ETag": f'"{etag}"'})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _missing(self, name: str) -> None:
        self._say(404, b"", {"X-Error-Code": "RevisionNotFound" if name in self.hub.commits else "RepoNotFound"})

    def _say(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in ({"Content-Type": "application/json", "Content-Length": str(len(content))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.fault == "truncated" and len(content) > 50_000:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def hub_of_models(cache: Path) -> Iterator[Hub]:
    """With the client of this process set to it, and to an empty cache."""
    import huggingface_hub.constants as constants

    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, pytest.MonkeyPatch.context() as patch:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        hub.url = f"http://127.0.0.1:{server.server_port}"
        hub.goes(patch, hub.url)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
