"""Step 7: the gate, and the stage of the model version."""

from typing import Annotated

from zenml import get_step_context, step

from materializers.figures import VerdictMaterializer
from steps.console import announce, record, sum_up, tell, warn
from text2sql.config import Settings
from text2sql.evaluation.figures import ACCURACY, figure_table, heading
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
    figures = {**evaluation.figures(), **_bounds(evaluation), "test_rows": evaluation.rows_digest, **_data()}
    record(
        {**figures, "gate_passed": verdict.passed, "gate": "; ".join(reasons) or verdict.headline}, model_version=True
    )
    sum_up(_as_read(evaluation, verdict), *_tags(evaluation, verdict))
    record({"gate_passed": verdict.passed, "gate": verdict.headline})
    tell(verdict.headline) if verdict.passed else warn(verdict.headline)
    _stage(verdict.passed)
    return verdict


def _bounds(evaluation: Evaluation) -> dict[str, float]:
    """The 95% interval of every system's execution accuracy."""
    found = {scores.name: scores.intervals.get(ACCURACY.key) for scores in evaluation.systems}
    ends = {name: dict(zip(("low", "high"), interval, strict=True)) for name, interval in found.items() if interval}
    return {f"{name}_{ACCURACY.key}_{end}": value for name, both in ends.items() for end, value in both.items()}


def _data() -> dict[str, str]:
    """A fingerprint of the rows, all splits together."""
    try:
        splits = get_step_context().model.get_artifact("splits")
    except RuntimeError:  # called by itself, outside a pipeline
        return {}
    return {"data_fingerprint": splits.content_hash} if splits is not None and splits.content_hash else {}


def _as_read(evaluation: Evaluation, verdict: Verdict) -> dict[str, dict[str, str]]:
    """The verdict with its reasons, and a group of figures a system."""
    groups = {heading(scores.name): dict[str, str]() for scores in evaluation.systems}
    for row in figure_table(evaluation):
        for group, cell in zip(groups.values(), row.cells, strict=True):
            group[row.figure.label] = f"{cell.text} {cell.interval_text}".strip()
    rules = {rule.name: f"{'✓' if rule.passed else '✗'} {rule.reason}" for rule in verdict.rules}
    return {"Gate": {"verdict": verdict.headline, **rules}, **groups}


def _tags(evaluation: Evaluation, verdict: Verdict) -> list[str]:
    """What makes one run stand out among many."""
    subject = evaluation.subject
    accuracy = subject.figures.get(ACCURACY.key) if subject is not None else None
    reached = [] if accuracy is None else [f"execution:{accuracy:.0%}"]
    return [f"gate:{'passed' if verdict.passed else 'failed'}", *reached]


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
