"""The judged model goes live, if its gate passed and it is what was judged."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from zenml import get_step_context, step

from materializers.deployment import DeploymentMaterializer
from materializers.types import DeploymentCard, ModelFolder
from steps.console import announce, record, sum_up, tell
from steps.production import mark
from text2sql.config import Settings
from text2sql.evaluation.gate import Verdict
from text2sql.evaluation.types import Evaluation

if TYPE_CHECKING:
    from text2sql.deployment.kubernetes.target import StoredModel


# Never from the cache: what serves changes without a change of code or settings.
@step(enable_cache=False, output_materializers=DeploymentMaterializer)
def deploy(
    merged_model: ModelFolder, evaluation: Evaluation, verdict: Verdict, settings: Settings
) -> Annotated[DeploymentCard, "deployment"]:
    """Start it beside what serves, check its answers, move the address over, and mark the version."""
    from text2sql.deployment.checks import questions_of
    from text2sql.deployment.release import release_of
    from text2sql.deployment.target import Limits
    from text2sql.deployment.target import deploy as take_live
    from text2sql.deployment.targets import target_of

    version, section = _version(), settings.deploy
    announce("deploy", f"version {version} of {settings.name}")
    release = release_of(settings.name, version, merged_model.digest, evaluation, verdict)
    deployed = take_live(
        target_of(settings, _stored() if section.target == "kubernetes" else None),
        release,
        merged_model.path,
        questions_of(evaluation, section.parity_rows),
        Limits(section.min_agreement, section.check_seconds),
        tell,
    )
    if version.isdecimal():
        mark(settings, version)
    card = DeploymentCard.of(deployed)
    record({"deployed": card.address, "deployed_at": card.since}, model_version=True)
    sum_up({"deployment": {"address": card.address, "since": card.since, "verdict": card.verdict}}, "deployed")
    return card


def _version() -> str:
    try:
        return str(get_step_context().model.number)
    except RuntimeError:  # called by itself, outside a pipeline
        return "none"


def _stored() -> "StoredModel | None":
    """Where model and adapter of this version lie in the artifact store."""
    from text2sql.deployment.kubernetes.manifests import Source
    from text2sql.deployment.kubernetes.target import StoredModel

    try:
        context = get_step_context()
    except RuntimeError:
        return None
    [merged] = context.inputs["merged_model"]
    adapter = context.model.get_artifact("adapter")
    if adapter is None:
        return StoredModel(merged.uri)
    found = Source(adapter.uri, str(adapter.run_metadata["sha256"]))
    return StoredModel(merged.uri, found, lambda: Path(adapter.load().path))
