"""This machine as a target: a gateway process at the stable address, and servers behind it on ports of their own."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from text2sql.config import DeploySection
from text2sql.data.files import sha256_folder
from text2sql.deployment.backend import GRACE_SECONDS, Spec
from text2sql.deployment.checks import Tell
from text2sql.deployment.client import ORDER_SECONDS, POLL_SECONDS, GatewayClient
from text2sql.deployment.commands import engine_of, environment, serve_command, server_variables, vllm_log
from text2sql.deployment.gateway import LEFT_SECONDS, Plan
from text2sql.deployment.release import Release
from text2sql.deployment.state import StateFolder, keep_release, last_words, locked, state_folder
from text2sql.deployment.target import Serving, Status
from text2sql.errors import DeploymentError
from text2sql.progress import working
from text2sql.serving.settings import server_settings
from text2sql.serving.vllm_command import LOOPBACK

TOLD_EVERY = 10.0
ENGINE_MARGIN = 15.0
"""Seconds beyond a server's own time limit, within which it answers 504 itself."""
BOUNDS = ("request_timeout", "body_timeout", "max_body_bytes", "max_upload_bytes")
"""The server's settings that the gateway keeps to as well."""

Command = Callable[[Path], list[str]]


class LocalTarget:
    """Where `deploy` of a config serves.

    Args:
        command: how a model folder is served; takes `--port N` besides.
    """

    def __init__(
        self, name: str, section: DeploySection, folder: StateFolder | None = None, command: Command | None = None
    ) -> None:
        self._section, self._folder = section, folder or state_folder(name)
        self._gateway = GatewayClient(self._folder)
        self._command = command or partial(serve_command, section)
        host = f"[{section.host}]" if ":" in section.host else section.host
        self.address = self.entrance = f"http://{_reachable(host)}:{section.port}"

    def alone(self) -> AbstractContextManager[object]:
        """As Target."""
        self._folder.make()
        return locked(self._folder.lock)

    def status(self) -> Status:
        """As Target."""
        told = self._gateway.told()
        if told is None:
            kept = self._gateway.kept()
            current, previous = self._kept(kept.get("current")), self._kept(kept.get("previous"))
            detail = "the gateway does not run" + ("; deploy again to start it" if current else "")
            return Status("local", self._address_of(kept), current, previous, detail)
        return Status(
            "local",
            self._address_of(self._gateway.kept()),
            current=self._serving(told["current"]),
            previous=self._serving(told["previous"]),
            settled=told["settled"],
        )

    def recover(self, tell: Tell) -> None:
        """As Target. The gateway starts what the last one served; what is to go live may be that, and needs no second
        server beside it."""
        kept = self._gateway.kept()
        if self._gateway.told() is not None or kept.get("stopped") or (current := kept.get("current")) is None:
            return
        self._ensure_gateway(tell)
        spec = Spec.from_dict(current)
        tell(f"{spec.release.title} was live when the last gateway ended; starting it again")
        deadline = time.monotonic() + spec.startup_seconds + 2 * GRACE_SECONDS
        while time.monotonic() < deadline:
            told = self._gateway.order("status", method="GET")["current"]
            if told["state"] != "starting" or told["restarts"]:  # it is up, or does not come up
                return
            time.sleep(POLL_SECONDS)

    def serves(self, release: Release) -> bool:
        """As Target."""
        told = self._gateway.told()
        if told is None or not told["settled"] or self._is_elsewhere():
            return False
        current = told["current"]
        if current is None or current["state"] != "up":
            return False
        wanted = self._spec(release, self._folder.releases / release.digest)
        return Spec.from_dict(current["spec"]).asks_for(wanted)

    def stage(self, release: Release, folder: Path, tell: Tell) -> str:
        """As Target."""
        self._check_key()
        tell(f"copying {release.title} to {self._folder.releases}")
        kept = keep_release(folder, release.digest, self._folder.releases)
        self._ensure_gateway(tell)
        return self._begin(self._spec(release, kept), tell)

    def promote(self) -> None:
        """As Target."""
        self._gateway.order("promote")

    def discard(self) -> None:
        """As Target."""
        if self._gateway.told() is not None:
            self._gateway.order("discard")
        self._prune()

    def restore(self) -> None:
        """As Target."""
        self._gateway.order("restore", seconds=self._section.drain_seconds + ORDER_SECONDS)
        self._prune()

    def settle(self) -> None:
        """As Target."""
        self._gateway.order("settle")
        self._prune()

    def rollback(self, tell: Tell) -> Release:
        """As Target. Nothing is asked of the current server, nor of any file but the previous model's own."""
        with self.alone():
            if (restored := self._undo_dead(tell)) is not None:
                return restored
            raw = self._gateway.kept().get("previous")
            if raw is None:
                raise DeploymentError(f"there is no version to go back to at {self.address}")
            spec = Spec.from_dict(raw | {"since": ""})
            with working(f"checking {spec.release.title}"):
                found = sha256_folder(self._folder.releases / spec.release.digest)
            if found != spec.release.digest:
                raise DeploymentError(f"{spec.release.title} is damaged or gone from {self._folder.releases}")
            self._ensure_gateway(tell)
            try:
                self._begin(spec, tell)
                self._gateway.order("adopt")  # it was verified when it went live, and what it replaces may be broken
            except BaseException:
                self.discard()
                raise
            return spec.release

    def _undo_dead(self, tell: Tell) -> Release | None:
        """Of a deployment that died before its server was verified: what it replaced still runs, and serves again."""
        told = self._gateway.told()
        if told is None or told["settled"]:
            return None
        tell("the last deployment has died half-way; undoing it")
        self.restore()
        current = self.status().current
        return current.release if current and current.state != "stopped" else None

    def stop(self, tell: Tell) -> None:
        """As Target."""
        with working(f"ending it; requests under way have up to {self._section.drain_seconds:g} s"):
            ran = self._gateway.end(self._section.drain_seconds)
            if self._folder.servers_lock.exists():
                with locked(self._folder.servers_lock, LEFT_SECONDS, "servers of a gateway that was killed do not end"):
                    pass
        tell("stopped" if ran else "nothing runs")

    def _spec(self, release: Release, folder: Path) -> Spec:
        return Spec(
            release,
            self._command(folder),
            environment(server_variables(self._section, self._folder.logs, release)),
            str(self._folder.logs / f"version-{release.version}.log"),
            str(Path.cwd()),
            engine_of(self._section),
            self._section.startup_seconds,
        )

    def _begin(self, spec: Spec, tell: Tell) -> str:
        """Start a candidate and wait until it is ready; its address."""
        begun = told_at = time.monotonic()
        tell(f"starting {spec.release.title} with {spec.engine or 'its engine'}")
        candidate = self._gateway.order("begin", spec.to_dict())["candidate"]
        # the gateway itself ends a start that takes too long
        while time.monotonic() - begun < spec.startup_seconds + 2 * GRACE_SECONDS + ORDER_SECONDS:
            if candidate is None or candidate["state"] == "failed":
                raise DeploymentError(candidate["why"] if candidate else "the gateway has ended the new server")
            if candidate["state"] == "up":
                tell(f"ready after {time.monotonic() - begun:.0f} s")
                return str(candidate["url"])
            if time.monotonic() - told_at > TOLD_EVERY:
                told_at = time.monotonic()
                tell(f"{told_at - begun:.0f} s: {last_words(self._written_last(spec), 'it is starting')}")
            time.sleep(POLL_SECONDS)
            candidate = self._gateway.order("status", method="GET")["candidate"]
        raise DeploymentError(f"the gateway does not say what became of the new server; its log is {self._gateway.log}")

    def _written_last(self, spec: Spec) -> Path:
        """The server's log, or that of the vLLM behind it."""
        logs = [Path(spec.log), vllm_log(self._folder.logs, spec.release)]
        return max((log for log in logs if log.exists()), key=lambda log: log.stat().st_mtime, default=logs[0])

    def _check_key(self) -> None:
        section = self._section
        if section.api_keys is not None and not os.environ.get("OPENAI_API_KEY"):
            raise DeploymentError(
                f"deploy.api_keys = {str(section.api_keys)!r}: the new server is asked questions before it goes live; "
                "set OPENAI_API_KEY to one of the keys"
            )
        if not section.on_loopback and section.api_keys is None:
            raise DeploymentError(f"deploy.host {section.host} can be reached from elsewhere; set deploy.api_keys")

    def _ensure_gateway(self, tell: Tell) -> None:
        """Running, and where the settings want it."""
        if self._gateway.told() is not None:
            if self._is_elsewhere():
                kept = self._address_of(self._gateway.kept())
                raise DeploymentError(f"clients are served at {kept}; to move to {self.address}, --pipeline stop first")
            return
        tell(f"starting the gateway at {self.address}")
        self._gateway.start(self._plan())

    def _plan(self) -> Plan:
        section = self._section
        said = server_settings({key: section.server.get(key) for key in BOUNDS} | {"host": LOOPBACK})
        return Plan(
            section.host,
            section.port,
            section.drain_seconds,
            section.keep_previous == "running",
            said.request_timeout + ENGINE_MARGIN,
            said.body_timeout,
            max(said.max_body_bytes, said.max_upload_bytes),
        )

    def _is_elsewhere(self) -> bool:
        kept = self._gateway.kept()
        return (kept.get("host"), kept.get("port")) != (self._section.host, self._section.port)

    def _prune(self) -> None:
        """Forget models that neither serve nor could be gone back to."""
        kept = self._gateway.kept()
        needed = {kept[name]["release"]["digest"] for name in ("current", "previous") if kept.get(name)}
        for folder in self._folder.releases.iterdir():
            if folder.name not in needed:
                shutil.rmtree(folder, ignore_errors=True)

    @staticmethod
    def _serving(told: dict[str, Any] | None) -> Serving | None:
        if told is None:
            return None
        spec = Spec.from_dict(told["spec"])
        return Serving(spec.release, told["state"], spec.since, spec.engine, told["why"], told["restarts"])

    @staticmethod
    def _kept(raw: dict[str, Any] | None) -> Serving | None:
        if raw is None:
            return None
        spec = Spec.from_dict(raw)
        return Serving(spec.release, "stopped", spec.since, spec.engine)

    def _address_of(self, kept: dict[str, Any]) -> str:
        return f"http://{_reachable(kept['host'])}:{kept['port']}" if "host" in kept else self.address


def _reachable(host: str) -> str:
    """Where a server that listens on every address can be asked from here."""
    return {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "::": "[::1]"}.get(host, host)  # noqa: S104
