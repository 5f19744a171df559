"""A real gateway with scripted servers behind it."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from text2sql.config import DeploySection
from text2sql.data.files import sha256_folder
from text2sql.deployment.checks import Question
from text2sql.deployment.local import LocalTarget
from text2sql.deployment.release import Release
from text2sql.deployment.state import StateFolder, read_json
from text2sql.deployment.target import Deployed, Limits, deploy
from text2sql.serving.supervisor import free_port

SERVER = Path(__file__).with_name("scripted_server.py")
QUESTIONS = [Question(f"question {i}", f"CREATE TABLE t (c{i} INTEGER)", f"SELECT c{i} FROM t", True) for i in range(8)]
RIGHT = {question.question: question.answer for question in QUESTIONS}
WRONG = {question.question: "SELECT 2" for question in QUESTIONS}


@dataclass
class Local:
    """A deployment in a folder of its own, whose models are plans of the scripted server."""

    folder: Path
    section: DeploySection = field(default_factory=lambda: DeploySection(port=free_port(), startup_seconds=20))
    told: list[str] = field(default_factory=list)
    hook: Callable[[str], None] | None = None
    """Hears what a deployment tells, while it waits."""

    @property
    def state(self) -> StateFolder:
        return StateFolder(self.folder / "state")

    @property
    def target(self) -> LocalTarget:
        return LocalTarget(
            "model",
            self.section,
            self.state,
            lambda folder: [sys.executable, "-I", str(SERVER), str(folder / "plan.json")],
        )

    def change(self, **settings: Any) -> None:
        self.section = DeploySection(**self.section.model_dump() | settings)

    def model(self, version: str, **plan: Any) -> Path:
        folder = self.folder / f"model-{version}-{hashlib.sha256(repr(plan).encode()).hexdigest()[:6]}"
        folder.mkdir(exist_ok=True)
        (folder / "plan.json").write_text(json.dumps({"answers": RIGHT, "version": version} | plan))
        return folder

    def deploy(self, version: str, **plan: Any) -> Deployed:
        folder = self.model(version, **plan)
        release = Release("model", version, sha256_folder(folder), "Gate passed: 1 rule kept", "2026-01-01T00:00:00")
        limits = Limits(self.section.min_agreement, self.section.check_seconds)
        return deploy(self.target, release, folder, QUESTIONS, limits, self.tell)

    def tell(self, line: str) -> None:
        self.told.append(line)
        if self.hook is not None:
            self.hook(line)

    def answering(self) -> str | None:
        """The version that clients hear, by the address that they know; None where nobody answers."""
        try:
            reply = httpx.post(
                f"{self.target.address}/generate", json={"question": "question 0"}, timeout=10, trust_env=False
            )
        except httpx.TransportError:
            return None
        return str(reply.json()["model"]) if reply.is_success else None

    @property
    def pid(self) -> int:
        return int(read_json(self.state.state).get("pid", 0))

    def servers(self) -> list[int]:
        """Process ids of the servers, without those who keep them."""
        words = [words.split() for words in self.processes()]
        return [int(pid) for pid, *command in words if "--port" in command and not any("keeper" in w for w in command)]

    def processes(self) -> list[str]:
        """Command lines of everything that this deployment runs."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                except OSError:
                    continue
                if str(self.folder) in words:
                    found.append(f"{entry.name} {words}")
        return found


def promoted(local: Local, version: str) -> None:
    """By a deployment that then dies: its lock is free, and nobody has verified the server."""
    with local.target.alone():
        folder = local.model(version)
        release = Release("model", version, sha256_folder(folder), "", "")
        local.target.stage(release, folder, local.told.append)
        local.target.promote()
        assert local.answering() == version
