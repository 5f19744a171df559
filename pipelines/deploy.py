"""Deploy: a model version whose gate passed takes the place of the one that serves."""

from zenml import get_pipeline_context, pipeline

from steps.deploy import deploy
from text2sql.config import Settings


@pipeline(name="deploy")
def deploy_version(settings: Settings) -> None:
    """What the version's own run left, and nothing made anew: the files that were judged go live."""
    version = get_pipeline_context().model
    deploy(
        version.get_artifact("merged_model"),
        version.get_artifact("evaluation"),
        version.get_artifact("verdict"),
        settings.keep("name", "deploy"),
    )
