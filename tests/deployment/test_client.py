"""What is asked of a gateway that may not be there."""

from __future__ import annotations

import gc
import os
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from text2sql.deployment.client import GatewayClient
from text2sql.deployment.state import StateFolder, write_json
from text2sql.errors import DeploymentError


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="text2sql-") as name:  # pytest's own may be too long for a socket
        yield Path(name) / "socket"


@pytest.fixture
def client(path: Path, tmp_path: Path) -> GatewayClient:
    folder = StateFolder(tmp_path)
    folder.make()
    write_json(folder.state, {"socket": str(path), "pid": os.getpid()})
    return GatewayClient(folder)


@pytest.mark.parametrize("is_bound", [False, True])
def test_one_that_does_not_listen_leaves_no_socket_behind(client: GatewayClient, path: Path, is_bound: bool):
    with socket.socket(socket.AF_UNIX) as other:
        if is_bound:
            other.bind(str(path))
        unraisable: list[object] = []
        hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", ResourceWarning)
                with pytest.raises(DeploymentError, match=r"the gateway does not obey \(status: .*Error\); its log is"):
                    client.order("status", method="GET")
                gc.collect()
        finally:
            sys.unraisablehook = hook
    assert not unraisable


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"HTTP/1.1 409 Conflict\r\nContent-Length: 17\r\n\r\n{\"error\": \"busy\"}", "^busy$"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", "does not obey .begin: JSONDecodeError"),
        (b"what?\r\n\r\n", "does not obey .begin: BadStatusLine"),
        (b"", "does not obey .begin: RemoteDisconnected"),
    ],
    ids=["refused", "no JSON", "no HTTP", "gone"],
)  # fmt: skip
def test_what_it_says_otherwise_is_an_error(client: GatewayClient, path: Path, said: bytes, words: str):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            asked, _ = listener.accept()
            with asked:
                heard = b""
                while not heard.endswith(b"}"):  # head and body come one after the other
                    heard += asked.recv(10_000)
                asked.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(DeploymentError, match=words):
            client.order("begin", {"version": "1"})
        thread.join()
