"""Retrain: train a challenger on what is new, judge it beside the champion on the same rows, deploy the better one."""

from zenml import pipeline

from pipelines.train import train_and_judge
from steps.deploy_better import deploy_better
from steps.detect_changes import detect_changes
from text2sql.config import Settings


@pipeline(name="retrain")
def retrain(settings: Settings) -> None:
    """It looks at its inputs first: a scheduled run was compiled long ago, and they have changed since, or have not."""
    changes = detect_changes(settings)
    merged_model, evaluation, verdict = train_and_judge(settings, after="detect_changes")
    deploy_better(merged_model, evaluation, verdict, changes, settings.keep("name", "deploy"))
