"""A vLLM server of our own: started on loopback, watched, started again when it dies, and ended with all it started.

vLLM lives in an environment of its own (`make vllm`). Its API has routes that stop it or replace its weights, so it
listens on loopback alone; what strangers may ask is for the API in front of it to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from text2sql.errors import EngineDead
from text2sql.serving import keeper

State = Literal["stopped", "starting", "up", "down", "failed"]

KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "TZ", "USER", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
KEPT_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "OMP_", "VLLM_", "XDG_")
FOR_THE_HUB = ("HF_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
CPU_ARGUMENTS = (
    "--enforce-eager",  # needs no compiler
    *("--gpu-memory-utilization", "0.2"),  # starts where less than nine tenths of the memory are free
    *("--distributed-executor-backend", "uni"),  # the worker in the engine's process: handing over costs more than work
)
CPU_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCH_COMPILE_DISABLE": "1"}
"""GiB of key-value cache; and what --enforce-eager does not reach must not ask for a compiler either."""
LOOPBACK = "127.0.0.1"
POLL_SECONDS = 0.2
PROGRESS_SECONDS = 5.0
LAST_LINE_CHARS = 300
PROGRESS_CHARS = 100
PROCESS_NAME = re.compile(r"^(\(\w+ pid=\d+\) )+")
ERROR_LINE = re.compile(r"(^|\] )[\w.]*(Error|Exception): ")
"""An exception's last line, bare or behind the logger's [file:line]; not a warning that talks about one."""


@dataclass(frozen=True)
class VllmOptions:
    """How vLLM is started."""

    python: Path = Path(".venv-vllm/bin/python")
    """The Python of its environment."""
    port: int = 0
    """On loopback; 0 takes a free one, and keeps it over restarts."""
    log: Path = Path("vllm.log")
    """What it prints; appended to."""
    startup_seconds: float = 300.0
    """After this long without an answer to its health check, a start has failed."""
    grace_seconds: float = 10.0
    """From asking it to stop to killing it."""
    restarts: int = 5
    """Starts in a row that may fail before it is given up."""
    backoff_seconds: float = 1.0
    """Before the first restart; doubles with each failed one, up to a minute."""
    arguments: tuple[str, ...] = ()
    """More for its command line; what comes last counts."""


class VllmServer:
    """One supervised server for a merged folder or a hub model. Belongs to the event loop that starts it.

    Args:
        progress: told in a line now and then how the start goes.
    """

    def __init__(
        self, model: str | Path, options: VllmOptions | None = None, progress: Callable[[str], None] | None = None
    ) -> None:
        self.model, self.options = str(model), options or VllmOptions()
        self.port = self.options.port or free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.state: State = "stopped"
        self.restarts = 0
        """How often it has been started again."""
        self.why = ""
        """Why it is not up, in one line."""
        self._progress = progress or (lambda _: None)
        self._keeper: asyncio.subprocess.Process | None = None
        self._leader = 0
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when it answers its health check.

        Raises:
            EngineDead: its environment is missing, it died (with its last words), or took too long.
        """
        if not self.options.python.exists():
            raise EngineDead(
                f"vLLM's environment is not there ({self.options.python}): run make vllm, or serve with transformers"
            )
        try:
            await self._launch()
        except BaseException as error:
            self.state, self.why = "failed", str(error)
            await self._end()
            raise
        self._watch = asyncio.create_task(self._keep_up(), name="vLLM supervisor")

    async def stop(self) -> None:
        """End it and everything it started. Returns when nothing is left."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
            self._watch = None
        await self._end()
        self.state, self.why = "stopped", "it was stopped"

    async def _launch(self) -> None:
        self.state = "starting"
        self.options.log.parent.mkdir(parents=True, exist_ok=True)
        self._keeper = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            keeper.__file__,
            str(self.options.log),
            str(self.options.grace_seconds),
            *self.command(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=(CPU_ENVIRONMENT if self._on_cpu() else {}) | environment(self.model),
            start_new_session=True,  # Ctrl-C in a terminal is for us; the keeper ends when we close its stdin
        )
        assert self._keeper.stdout is not None  # noqa: S101 - for the type checker
        self._leader = int(await self._keeper.stdout.readline() or 0)
        await self._wait_until_healthy(self._keeper)
        self.state, self.why = "up", ""

    def command(self) -> list[str]:
        """vLLM's command line. Its package for CPUs has no working `vllm` command, hence the module."""
        return [
            str(self.options.python.absolute()),
            *("-m", "vllm.entrypoints.openai.api_server"),
            *("--model", self.model, "--served-model-name", Path(self.model).name),
            *("--host", LOOPBACK, "--port", str(self.port)),
            *("--load-format", "safetensors"),  # never a pickle
            *("--generation-config", "vllm"),  # the request alone says how to draw
            "--disable-uvicorn-access-log",
            *(CPU_ARGUMENTS if self._on_cpu() else ()),
            *self.options.arguments,
        ]

    def _on_cpu(self) -> bool:
        """Whether its environment holds vLLM's build for CPUs."""
        return any(self.options.python.absolute().parents[1].glob("lib/python*/site-packages/vllm_cpu-*.dist-info"))

    async def _wait_until_healthy(self, process: asyncio.subprocess.Process) -> None:
        begun = time.monotonic()
        told = 0.0
        async with httpx.AsyncClient(base_url=self.url, timeout=2.0) as client:
            while (waited := time.monotonic() - begun) < self.options.startup_seconds:
                if process.returncode is not None:
                    raise EngineDead(
                        f"vLLM ended with exit code {process.returncode} while it started: {self.last_words()}; "
                        f"see {self.options.log}"
                    )
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get("/health")).is_success:
                        self._progress(f"vLLM answers after {waited:.0f} s")
                        return
                if waited - told >= PROGRESS_SECONDS:
                    told = waited
                    self._progress(f"vLLM is starting, {waited:.0f} s: {self._log_lines()[-1][:PROGRESS_CHARS]}")
                await asyncio.sleep(POLL_SECONDS)
        raise EngineDead(
            f"vLLM did not answer within {self.options.startup_seconds:g} s: {self.last_words()}; "
            f"see {self.options.log}, or raise the start-up time"
        )

    async def _keep_up(self) -> None:
        """Start it again whenever it ends, and wait longer after each start that fails."""
        failed = 0
        while self._keeper is not None and failed < self.options.restarts:
            if self.state == "up":
                failed = 0
                code = await self._keeper.wait()
                self.state, self.why = "down", f"vLLM ended with exit code {code}: {self.last_words()}"
                self._progress(f"{self.why}; starting it again")
            await self._end()
            await asyncio.sleep(min(self.options.backoff_seconds * 2**failed, 60.0))
            self.restarts += 1
            try:
                await self._launch()
            except (EngineDead, OSError) as error:
                failed += 1
                self.state, self.why = "down", str(error)
                self._progress(str(error))
        self.state = "failed"

    async def _end(self) -> None:
        process, self._keeper = self._keeper, None
        if process is None:
            return
        assert process.stdin is not None  # noqa: S101
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), self.options.grace_seconds + keeper.KILL_SECONDS + 5)
        except TimeoutError:
            process.kill()
            await process.wait()
        if self._leader:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # as it should be
                os.killpg(self._leader, signal.SIGKILL)

    def last_words(self) -> str:
        """The log's last error, else its last line, cut to a length that fits into a message."""
        lines = self._log_lines()
        errors = [line for line in lines if ERROR_LINE.search(line)]
        return (errors or lines)[-1][:LAST_LINE_CHARS]

    def _log_lines(self) -> list[str]:
        """The end of the log, without empty lines and process names."""
        try:
            with self.options.log.open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 65_536, 0))
                lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
        except OSError:
            lines = []
        return [PROCESS_NAME.sub("", line) for line in lines if line] or ["it has said nothing yet"]


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def environment(model: str) -> dict[str, str]:
    """What vLLM needs of ours, and nothing else: no keys of the API, no cloud credentials.

    A local folder needs no hub, so it gets no token of it either.
    """
    local = Path(model).is_dir()
    prefixes = KEPT_PREFIXES if local else (*KEPT_PREFIXES, *FOR_THE_HUB)
    kept = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(prefixes)}
    if local:
        kept |= {"HF_HUB_OFFLINE": "1"} | {name: os.environ[name] for name in ("HF_HOME",) if name in os.environ}
    return kept | QUIET
