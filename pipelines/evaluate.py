"""Evaluate: judge a model version again, on the test rows that were frozen when it was trained."""

from zenml import get_pipeline_context, pipeline

from steps.evaluate import evaluate, of_evaluation
from steps.find_champion import find_champion
from steps.promote import promote
from text2sql.config import Settings


@pipeline(name="evaluate")
def evaluate_again(settings: Settings) -> None:
    """Its own rows and no others: it may have been trained on those that a new split would call its test."""
    version = get_pipeline_context().model
    champion = find_champion(settings.keep("name"))
    evaluation = evaluate(
        version.get_artifact("merged_model"),
        version.get_artifact("splits"),
        champion,
        of_evaluation(settings),
    )
    promote(evaluation, settings.keep("name", "gate"))
