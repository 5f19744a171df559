"""Train: from raw rows to a merged, judged and, when the gate passes, staged model."""

from typing import Any

from zenml import pipeline

from steps.evaluate import evaluate, of_evaluation
from steps.find_champion import find_champion
from steps.finetune import finetune
from steps.format import format_rows
from steps.ingest import ingest
from steps.merge import merge
from steps.promote import promote
from steps.validate import validate
from text2sql.config import Settings

JUDGING = tuple(
    f"evaluation.{key}"
    for key in ("max_rows", "databases", "query_timeout", "few_shot", "resamples", "report_examples")
)
"""What decides how answers are judged, and not how they are made."""


@pipeline(name="train")
def train(settings: Settings) -> None:
    """From rows to a verdict."""
    train_and_judge(settings)


def train_and_judge(settings: Settings, after: str | None = None) -> tuple[Any, Any, Any]:
    """Merged model, evaluation and verdict.

    Each step gets the sections it depends on, so that a change elsewhere does not run it again.
    """
    raw_rows = ingest(settings.keep("data"), after=after)
    valid_rows, *_ = validate(raw_rows, settings.keep("data", "output_dir"))
    splits, *_ = format_rows(valid_rows, settings.keep("data", "model", "training"))
    adapter, _ = finetune(splits, settings.keep("model", "lora", "training", "wandb"))
    merged_model, _ = merge(
        adapter, splits, settings.keep("data", "model", "training", "merge", "evaluation", reset=JUDGING)
    )
    champion = find_champion(settings.keep("name"), after="merge")  # it may have changed meanwhile
    evaluation = evaluate(merged_model, splits, champion, of_evaluation(settings))
    return merged_model, evaluation, promote(evaluation, settings.keep("name", "gate"))
