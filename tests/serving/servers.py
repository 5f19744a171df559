"""Database servers on loopback, started in a temporary folder, where this machine has their programs."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_POSTGRES_FOLDERS = ("/usr/lib/postgresql", "/usr/local/pgsql/bin", "/opt/homebrew/bin")
_START_SECONDS = 60
USER = "postgres"
PASSWORD = "s3cret/wörd@1"


def program(name: str) -> str | None:
    """Where a program is: on the path, or where Debian and others put those of servers."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    places = (path for folder in _POSTGRES_FOLDERS for path in Path(folder).glob(f"**/bin/{name}"))
    return found or next(map(str, places), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def postgres() -> Iterator[int]:
    """A PostgreSQL that asks for a password; its port. Skips where it cannot be had."""
    initdb, server = program("initdb"), program("postgres")
    if not initdb or not server:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    as_user: list[str] = []
    if os.getuid() == 0:  # it refuses to run as root
        if (
            not shutil.which("runuser")
            or subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode
        ):
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    # pytest's own temporary folders are closed to other users, such as the one that PostgreSQL runs as.
    with tempfile.TemporaryDirectory(prefix="text2sql-postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield from _serve(folder, as_user, initdb, server)


def _serve(folder: Path, as_user: list[str], initdb: str, server: str) -> Iterator[int]:
    data = folder / "data"
    data.mkdir()
    if as_user:
        shutil.chown(data, "postgres")
    secret = folder / "secret"
    secret.write_text(PASSWORD, "utf-8")
    secret.chmod(0o644)
    subprocess.run(
        [*as_user, initdb, "-D", str(data), "-U", USER, f"--pwfile={secret}", "-Ascram-sha-256", "-N", "-EUTF8"],
        check=True, capture_output=True, cwd="/",
    )  # fmt: skip
    port = free_port()
    log = folder / "log"
    with log.open("wb") as lines:
        process = subprocess.Popen(
            [*as_user, server, "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"],
            stdout=lines, stderr=lines, cwd="/",
        )  # fmt: skip
    try:
        _wait_for(port, process, log)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it answers a query: it takes connections before that."""
    import psycopg

    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(f"host=127.0.0.1 port={port} user={USER} dbname=postgres", password=PASSWORD).close()
            return
        time.sleep(0.1)
    raise TimeoutError(f"PostgreSQL does not answer on port {port}: {log.read_text('utf-8', 'replace')[-1000:]}")


@contextlib.contextmanager
def mariadb(script: str) -> Iterator[int]:
    """A MariaDB that has run this script, with an owner of everything that has a password; its port. May skip."""
    install, server = program("mariadb-install-db"), program("mariadbd")
    if not install or not server:
        pytest.skip("no MariaDB here: apt-get install mariadb-server")
    import pymysql
    from pymysql.constants import CLIENT

    me = "root" if os.getuid() == 0 else os.environ.get("USER", "")
    with tempfile.TemporaryDirectory(prefix="text2sql-mariadb-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        data, log, port = folder / "data", folder / "log", free_port()
        alike = ["--no-defaults", f"--user={me}", f"--datadir={data}"]
        subprocess.run(
            [install, *alike, "--auth-root-authentication-method=normal", "--skip-test-db"],
            check=True, capture_output=True,
        )  # fmt: skip
        with log.open("wb") as lines:
            process = subprocess.Popen(
                [server, *alike, f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder / 'socket'}",
                 "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0"],
                stdout=lines, stderr=lines,
            )  # fmt: skip
        try:
            _wait_for_file(folder / "socket", process, log)
            owner = pymysql.connect(
                unix_socket=str(folder / "socket"), user="root", client_flag=CLIENT.MULTI_STATEMENTS
            )
            with owner, owner.cursor() as cursor:
                account = "owner@'127.0.0.1'"
                cursor.execute(
                    f"CREATE USER {account} IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON *.* TO {account}; {script}"
                )
                while cursor.nextset():
                    pass
                owner.commit()
            yield port
        finally:
            process.terminate()
            process.wait(30)


def _wait_for_file(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not path.exists():
        if time.monotonic() > deadline or process.poll() is not None:
            raise TimeoutError(f"MariaDB does not start: {log.read_text('utf-8', 'replace')[-1000:]}")
        time.sleep(0.1)
