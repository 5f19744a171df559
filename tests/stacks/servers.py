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


class ZenMLServer:
    """It keeps its database in a folder of its own, lets everybody in, and can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.address = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        environment = {
            **os.environ,
            "ZENML_CONFIG_PATH": str(self._folder / "server"),
            "ZENML_LOCAL_STORES_PATH": str(self._folder / "stores"),
            "ZENML_SERVER_AUTH_SCHEME": "NO_AUTH",
            "ZENML_SERVER_AUTO_ACTIVATE": "1",
        }
        command = [sys.executable, "-m", "uvicorn", "zenml.zen_server.zen_server_api:app", "--log-level", "warning"]
        with (self._folder / "server.log").open("w") as log:
            self._process = subprocess.Popen(
                [*command, "--port", str(self._port)], env=environment, stdout=log, stderr=log
            )
        self._wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def _wait(self) -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if httpx.get(f"{self.address}/health", trust_env=False).is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        told = (self._folder / "server.log").read_text()[-2000:]
        self._process.kill()
        raise AssertionError(f"the ZenML server did not start: {told}")


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
