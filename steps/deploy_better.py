"""The last step of a retraining: the challenger goes live if it is better, and the champion is kept if not."""

from typing import Annotated

from zenml import step
from zenml.artifacts.unmaterialized_artifact import UnmaterializedArtifact

from materializers.figures import ReportMaterializer
from materializers.types import Report
from steps.console import announce, record, sum_up, tell
from steps.deploy import deploy
from steps.detect_changes import FINGERPRINT
from text2sql.config import Settings
from text2sql.evaluation.gate import Verdict
from text2sql.evaluation.types import Evaluation
from text2sql.fingerprint import PARTS


@step(enable_cache=False, output_materializers=ReportMaterializer)
def deploy_better(
    merged_model: UnmaterializedArtifact, evaluation: Evaluation, verdict: Verdict, changes: Report, settings: Settings
) -> Annotated[Report, "outcome"]:
    """Deploy a challenger whose gate passed and which answers more rows than the champion does.

    The model is fetched from the artifact store only if it goes live.
    """
    from text2sql.evaluation.gate import why_keep_champion

    announce("deploy_better", f"the challenger of {settings.name}")
    reason = why_keep_champion(evaluation, verdict)
    if reason is None:
        card = deploy.entrypoint(merged_model.load(), evaluation, verdict, settings)
        figures = {"deployed": True, "address": card.address, "why": card.verdict}
    else:
        tell(reason)
        sum_up({"retraining": {"champion kept": reason}}, "champion-kept")
        figures = {"deployed": False, "address": "", "why": reason}
    # Last of all: a run that was killed before this line is not the last finished one, and is tried again.
    record({FINGERPRINT: {part: changes.figures[part] for part in PARTS}}, model_version=True)
    return Report("Outcome of the retraining", figures)
