"""What a remote stack stands on, all of it on loopback: a ZenML server and an S3 store, each a real one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from text2sql.serving.supervisor import free_port

KEY, SECRET, BUCKET = "key-of-the-tests", "secret-of-the-tests", "text2sql-artifacts"


@contextmanager
def zenml_server(folder: Path) -> Iterator[str]:
    """Its address. It keeps its database in a folder of its own, and lets everybody in."""
    port = free_port()
    environment = {
        **os.environ,
        "ZENML_CONFIG_PATH": str(folder / "server"),
        "ZENML_LOCAL_STORES_PATH": str(folder / "stores"),
        "ZENML_SERVER_AUTH_SCHEME": "NO_AUTH",
        "ZENML_SERVER_AUTO_ACTIVATE": "1",
    }
    command = [sys.executable, "-m", "uvicorn", "zenml.zen_server.zen_server_api:app", "--log-level", "warning"]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen([*command, "--port", str(port)], env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(address, server, folder / "server.log")
        yield address
    finally:
        server.terminate()
        server.wait(30)


def _wait(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{address}/health", trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"the ZenML server did not start: {log.read_text()[-2000:]}")


@contextmanager
def s3_store() -> Iterator[str]:
    """Its address; it has one empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        address = f"http://{host}:{port}"
        keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=address, **keys).create_bucket(Bucket=BUCKET)
        yield address
    finally:
        server.stop()
