"""Artifacts that are neither rows nor an evaluation: a model folder, a table of figures, the course of a training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from text2sql.deployment.target import Deployed

Cell = str | int | float | bool | None


@dataclass(frozen=True)
class ModelFolder:
    """A folder with an adapter or a model, and the checksum (`sha256_folder`) that names its content."""

    path: Path
    digest: str
    checksums: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """SHA-256 of each file by its relative path, where they are known: gigabytes are not read again to learn them."""


class _Json:
    """To JSON and back, for a flat dataclass."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, text: str) -> Self:
        raw: dict[str, Any] = json.loads(text)
        return cls(**raw)


@dataclass(frozen=True)
class Report(_Json):
    """Figures of a step and, where one helps, a table with a mapping from column to cell a row."""

    title: str
    figures: Mapping[str, Cell]
    table: Sequence[Mapping[str, Cell]] = field(default_factory=list)
    shares: Sequence[str] = field(default_factory=list)
    """Columns of the table that are shares of one, shown in percent."""


@dataclass(frozen=True)
class ModelReference(_Json):
    """A merged model in ZenML's store, named rather than copied; empty where there is none."""

    version: str | None = None
    """Number of the model version that it belongs to."""
    artifact: str | None = None
    """Id of its artifact version."""
    digest: str | None = None


@dataclass(frozen=True)
class TrainingHistory(_Json):
    """The course of a training: a mapping a logged step (step, loss, eval_loss, …), and figures of the whole."""

    points: list[dict[str, float]]
    figures: dict[str, Cell]


@dataclass(frozen=True)
class DeploymentCard(_Json):
    """A model version that went live: where, since when, and on what grounds."""

    name: str
    version: str
    digest: str
    address: str
    since: str
    engine: str
    verdict: str
    figures: dict[str, float]
    compared: int | None
    """Test rows whose answers were compared; None where it was live before."""
    agreement: float | None
    previous: str | None
    """The version that --rollback goes back to."""

    @classmethod
    def of(cls, deployed: Deployed) -> Self:
        release, status, parity = deployed.release, deployed.status, deployed.parity
        current, previous = status.current, status.previous
        return cls(
            release.name,
            release.version,
            release.digest,
            status.address,
            current.since if current else "",
            current.engine if current else "",
            release.verdict,
            dict(release.figures),
            parity.asked - parity.skipped if parity else None,
            parity.agreement if parity else None,
            previous.release.version if previous else None,
        )
