"""A vLLM server of our own: started on loopback, watched, and ended with all it started.

One that dies is started again, and so is one that hangs: no answer to its health check, or no token while it has work.

One that never came up is an error of its start: a wrong model or argument does not mend itself. One that was up once is
never given up: it is started again with growing pauses, until somebody stops it.

vLLM lives in an environment of its own (`make vllm`). Its API has routes that stop it or replace its weights, so it
listens on loopback alone; what strangers may ask is for the API in front of it to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
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

from text2sql.errors import EngineDead, Text2SQLError
from text2sql.serving import keeper
from text2sql.serving.checkpoint import Checkpoint
from text2sql.serving.pulse import until_it_hangs
from text2sql.serving.vllm_command import LOOPBACK, asks_for_eager, command, environment, on_cpu
from text2sql.serving.vllm_compiler import compiler_fault, kept_in

State = Literal["stopped", "starting", "up", "down", "failed"]

POLL_SECONDS = 0.2
MAX_PAUSE_SECONDS = 60.0
PROGRESS_SECONDS = 5.0
LAST_LINE_CHARS = 300
PROGRESS_CHARS = 100
PROCESS_NAME = re.compile(r"^(\(\w+ pid=\d+\) )+")
ERROR_LINE = re.compile(r"(^|\] )[\w.]*(Error|Exception): ")
"""An exception's last line, bare or behind the logger's [file:line]; not a warning that talks about one."""

COMPILING = re.compile(r"\b(Inductor|CppCompile)Error\b|torch/_(inductor|dynamo)/")
"""Of an error of torch.compile, and of the traces that lead to one."""


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
    backoff_seconds: float = 1.0
    """Before a restart; doubles with each further one, up to a minute."""
    healthy_seconds: float = 60.0
    """Up for so long, the next death counts as the first again."""
    hang_seconds: float = 120.0
    """Without a sign of life for so long, it is ended and started again; the longest prompt must take less."""
    arguments: tuple[str, ...] = ()
    """More for its command line (vllm_command.check_arguments); what comes last counts."""


class VllmServer:
    """One supervised server of a model. Belongs to the event loop that starts it.

    Args:
        find: the model's files (checkpoint.find_checkpoint); called once, in a thread, when it starts.
        name: what the model is called; default: what its checkpoint says.
        progress: told in a line now and then how the start goes.
    """

    def __init__(
        self,
        find: Callable[[], Checkpoint],
        options: VllmOptions | None = None,
        name: str | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.options = options or VllmOptions()
        self.port = self.options.port or free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.state: State = "stopped"
        self.restarts = 0
        """How often it has been started again."""
        self.why = ""
        """Why it is not up, in one line."""
        self._find, self._name = find, name
        self._checkpoint: Checkpoint | None = None
        self._cache: Path | None = None
        """On a CPU, where the compiled model is kept; None: it is not compiled."""
        self._log_begin = 0
        self._progress = progress or (lambda _: None)
        self._keeper: asyncio.subprocess.Process | None = None
        self._leader = 0
        self._watch: asyncio.Task[None] | None = None

    async def checkpoint(self) -> Checkpoint:
        """What it serves.

        Raises:
            ModelError: it cannot be served.
        """
        if self._checkpoint is None:
            found = await asyncio.to_thread(self._find)
            self._checkpoint = dataclasses.replace(found, name=self._name or found.name)
        return self._checkpoint

    async def start(self) -> None:
        """Returns when it answers its health check.

        Raises:
            ModelError: the model cannot be served.
            EngineDead: its environment is missing, it died (with its last words), or took too long.
        """
        try:
            if not self.options.python.exists():
                python = self.options.python
                raise EngineDead(
                    f"vLLM's environment is not there ({python}): run make vllm, or serve with transformers"
                )
            self._cache = await asyncio.to_thread(self._find_cache)
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
        """Once more without compiling, if it is that which fails: a compiler that works may still not do for torch."""
        try:
            await self._launch_once()
        except EngineDead:
            if self._cache is None or not any(COMPILING.search(line) for line in self._log_lines()):
                raise
            self._progress(f"vLLM starts again without compiling the model, which failed: {self.last_words()}")
            await self._end()
            self._cache = None
            await self._launch_once()

    async def _launch_once(self) -> None:
        self.state = "starting"
        self.options.log.parent.mkdir(parents=True, exist_ok=True)
        self._log_begin = self.options.log.stat().st_size if self.options.log.exists() else 0
        self._keeper = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            keeper.__file__,
            str(self.options.log),
            str(self.options.grace_seconds),
            *self.command(await self.checkpoint()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(self.options.python, self._cache),
            start_new_session=True,  # Ctrl-C in a terminal is for us; the keeper ends when we close its stdin
        )
        assert self._keeper.stdout is not None  # noqa: S101 - for the type checker
        self._leader = int(await self._keeper.stdout.readline() or 0)
        await self._wait_until_healthy(self._keeper)
        self.state, self.why = "up", ""

    def command(self, checkpoint: Checkpoint) -> list[str]:
        """The command line that is kept running."""
        options = self.options
        return command(options.python, checkpoint, self.port, options.arguments, self._cache is not None)

    def _find_cache(self) -> Path | None:
        """Where the compiled model is kept; None, and it is told why, where it cannot be compiled."""
        python = self.options.python
        if not on_cpu(python) or asks_for_eager(self.options.arguments):
            return None
        cache = kept_in()
        fault = compiler_fault(python, environment(python, cache)) if cache else "its cache cannot be written"
        if fault is not None:
            self._progress(f"vLLM does not compile the model, which would answer faster: {fault}")
            return None
        return cache

    async def _wait_until_healthy(self, process: asyncio.subprocess.Process) -> None:
        begun = time.monotonic()
        told = 0.0
        async with httpx.AsyncClient(base_url=self.url, timeout=2.0, trust_env=False) as client:
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
        """Start it again whenever it ends, and wait longer each time that it did not last."""
        pause = self.options.backoff_seconds
        while True:
            if self._keeper is not None and self.state == "up":
                since = time.monotonic()
                self.why, unwell = await self._fails(self._keeper)
                self.state = "down"
                if time.monotonic() - unwell - since >= self.options.healthy_seconds:
                    pause = self.options.backoff_seconds
            await self._end()
            self._progress(f"{self.why}; starting it again in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
            self.restarts += 1
            try:
                await self._launch()
            except (Text2SQLError, OSError) as error:
                self.state, self.why = "down", str(error)

    async def _fails(self, process: asyncio.subprocess.Process) -> tuple[str, float]:
        """Why it is up no more, when that comes, and for how many seconds that has been so."""
        ended = asyncio.ensure_future(process.wait())
        hanging = asyncio.ensure_future(until_it_hangs(self.url, self.options.hang_seconds))
        try:
            await asyncio.wait({ended, hanging}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return f"vLLM ended with exit code {ended.result()}: {self.last_words()}", 0.0
            return hanging.result(), self.options.hang_seconds
        finally:
            ended.cancel()
            hanging.cancel()
            await asyncio.gather(ended, hanging, return_exceptions=True)

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
        if self._leader and process.returncode and process.returncode < 0:  # the keeper was killed, and left all to us
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._leader, signal.SIGKILL)
        self._leader = 0

    def last_words(self) -> str:
        """The log's last error, else its last line, cut to a length that fits into a message."""
        lines = self._log_lines()
        errors = [line for line in lines if ERROR_LINE.search(line)]
        return (errors or lines)[-1][:LAST_LINE_CHARS]

    def _log_lines(self) -> list[str]:
        """The end of the log since the last start, without empty lines and process names."""
        try:
            with self.options.log.open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 65_536, self._log_begin))
                lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
        except OSError:
            lines = []
        return [PROCESS_NAME.sub("", line) for line in lines if line] or ["it has said nothing yet"]


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
