"""Step 7: the gate, and the stage of the model version."""

from typing import Annotated

from zenml import get_step_context, step

from materializers.figures import VerdictMaterializer
from steps.console import announce, record, tell, warn
from text2sql.config import Settings
from text2sql.evaluation.gate import Verdict
from text2sql.evaluation.types import Evaluation

STAGE, LIVE = "staging", "production"


# Never from the cache: each run has a model version of its own, which must get its figures and its stage.
@step(enable_cache=False, output_materializers=VerdictMaterializer)
def promote(evaluation: Evaluation, settings: Settings) -> Annotated[Verdict, "verdict"]:
    """Judge by the configured gate; a model version that passes is staged, one that fails keeps its reasons."""
    from text2sql.evaluation.gate import decide

    announce("promote", f"the gate of {settings.name}")
    verdict = decide(evaluation, settings.gate)
    reasons = [rule.reason for rule in verdict.rules if not rule.passed]
    record(
        {**evaluation.figures(), "gate_passed": verdict.passed, "gate": "; ".join(reasons) or verdict.headline},
        model_version=True,
    )
    record({"gate_passed": verdict.passed, "gate": verdict.headline})
    tell(verdict.headline) if verdict.passed else warn(verdict.headline)
    _stage(verdict.passed)
    return verdict


def _stage(passed: bool) -> None:
    """The version that held the stage until now is archived; one in production stays there whatever is found of it."""
    try:
        model = get_step_context().model
    except RuntimeError:  # called by itself, outside a pipeline
        return
    if model.stage == LIVE:
        return
    if passed:
        model.set_stage(STAGE, force=True)
    elif model.stage == STAGE:  # judged again, and found wanting
        model.set_stage("archived", force=True)
