"""Step 6: base, tuned model and champion, judged on the same frozen test rows."""

from typing import Annotated

from datasets import DatasetDict
from zenml import step

from materializers.figures import EvaluationMaterializer
from materializers.types import ModelFolder, ModelReference
from steps.cache import BY_CODE
from steps.console import announce, record
from text2sql.config import Settings
from text2sql.evaluation.types import Evaluation


@step(cache_policy=BY_CODE, output_materializers=EvaluationMaterializer)
def evaluate(
    merged_model: ModelFolder, splits: DatasetDict, champion: ModelReference, settings: Settings
) -> Annotated[Evaluation, "evaluation"]:
    """Answer every test question with every model, and hold the answers against the gold."""
    from dataclasses import replace

    from text2sql.evaluation.answering import local_model
    from text2sql.evaluation.evaluate import evaluate_systems, plain_figures

    base, limits = settings.model, settings.evaluation
    trusted = base.trust_remote_code
    contenders = {
        "base": local_model(
            base.name,
            limits,
            revision=base.revision,
            trust_remote_code=trusted,
            chat_template=base.chat_template,
            few_shot=True,
        ),
        "tuned": local_model(merged_model.path, limits, trust_remote_code=trusted),
    }
    if champion.artifact is not None:
        contenders["champion"] = local_model(_fetched(champion.artifact).path, limits, trust_remote_code=trusted)
    rows = splits["test"].num_rows
    announce("evaluate", f"{', '.join(contenders)} on {min(limits.max_rows or rows, rows):,} test rows")
    evaluation = evaluate_systems(splits["test"], contenders, settings, splits["train"])
    evaluation = replace(evaluation, plain_schemas=plain_figures(splits["test"], contenders["tuned"], settings))
    record(evaluation.figures())
    return evaluation


def of_evaluation(settings: Settings) -> Settings:
    """What the step depends on: how many examples the report shows is not part of it."""
    return settings.keep("model", "data", "evaluation", reset=("evaluation.report_examples",))


def _fetched(artifact: str) -> ModelFolder:
    """The champion's folder, from the local cache or the artifact store."""
    from zenml.client import Client

    folder: ModelFolder = Client().get_artifact_version(artifact).load()
    return folder
