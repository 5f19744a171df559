"""Step 6: base and tuned model, judged on the same frozen test rows."""

from typing import Annotated

from datasets import DatasetDict
from zenml import step

from materializers.figures import EvaluationMaterializer
from materializers.types import ModelFolder
from steps.cache import BY_CODE
from steps.console import announce, record
from text2sql.config import Settings
from text2sql.evaluation.types import Evaluation


@step(cache_policy=BY_CODE, output_materializers=EvaluationMaterializer)
def evaluate(merged_model: ModelFolder, splits: DatasetDict, settings: Settings) -> Annotated[Evaluation, "evaluation"]:
    """Answer every test question with both models, and hold the answers against the gold."""
    from dataclasses import replace

    from text2sql.evaluation.evaluate import evaluate_systems, plain_figures
    from text2sql.training.model import load_for_inference

    base = settings.model
    announce("evaluate", f"base and tuned model on {splits['test'].num_rows:,} test rows")
    systems = {
        "base": lambda: load_for_inference(
            base.name, base.revision, base.trust_remote_code, chat_template=base.chat_template
        ),
        "tuned": lambda: load_for_inference(merged_model.path, trust_remote_code=base.trust_remote_code),
    }
    evaluation = evaluate_systems(splits["test"], systems, settings)
    evaluation = replace(evaluation, plain_schemas=plain_figures(splits["test"], systems["tuned"], settings))
    record({f"{s.name}_{name}": value for s in evaluation.systems for name, value in s.figures.items()})
    return evaluation
