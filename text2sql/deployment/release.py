"""A model version that may go live: its gate passed, and its files are those that were judged."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from text2sql.errors import DeploymentError, GateRefusal
from text2sql.evaluation.types import subject_of

if TYPE_CHECKING:
    from text2sql.evaluation.gate import Verdict
    from text2sql.evaluation.types import Evaluation


@dataclass(frozen=True)
class Release:
    """What a server says about the model that it serves."""

    name: str
    """Of the model; what /v1/models says."""
    version: str
    digest: str
    """Checksum of the model folder."""
    verdict: str
    """The gate's, in one line."""
    evaluated: str
    """ISO 8601 time, UTC."""
    figures: dict[str, float] = field(default_factory=dict)
    """Of the evaluation, by the keys of text2sql.evaluation.figures.FIGURES."""

    @property
    def title(self) -> str:
        return f"{self.name} version {self.version}"

    def is_same_as(self, other: Release) -> bool:
        """Whether both are the same files of the same version, however often that was judged."""
        return (self.version, self.digest) == (other.version, other.digest)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Self:
        return cls(**raw)


def release_of(name: str, version: str, digest: str, evaluation: Evaluation, verdict: Verdict) -> Release:
    """The release, if it may go live.

    Raises:
        GateRefusal: the gate did not pass; with every rule that was broken.
        DeploymentError: the evaluation is about other files than these.
    """
    if not verdict.passed:
        reasons = "; ".join(rule.reason for rule in verdict.rules if not rule.passed)
        raise GateRefusal(f"{name} version {version} is not deployed. {verdict.headline}: {reasons}")
    judged = subject_of(evaluation.systems).digest
    if judged != digest:
        raise DeploymentError(
            f"{name} version {version} is not deployed: the deployed artifact is not the evaluated one (SHA-256 "
            f"{digest[:12]}…, and the evaluation judged {f'{judged[:12]}…' if judged else 'no folder'}); judge it with "
            f"--pipeline evaluate --model-version {version}"
        )
    figures = {key: float(value) for key, value in subject_of(evaluation.systems).figures.items()}
    return Release(name, version, digest, verdict.headline, evaluation.created, figures)
