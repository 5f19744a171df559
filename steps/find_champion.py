"""Which model is in production now: the one that a new model must not fall behind."""

from typing import Annotated

from zenml import step

from materializers.figures import ReferenceMaterializer
from materializers.types import ModelReference
from steps.console import announce, record, tell
from steps.production import STAGE
from text2sql.config import Settings


# Never from the cache: what is in production changes without a change of code or settings.
@step(enable_cache=False, output_materializers=ReferenceMaterializer)
def find_champion(settings: Settings) -> Annotated[ModelReference, "champion"]:
    """The version in stage production, asked when the step runs: a schedule outlives many champions."""
    from zenml.client import Client

    announce("find_champion", f"the version of {settings.name} in stage {STAGE}")
    found = Client().list_model_versions(model=settings.name, stage=STAGE, hydrate=True).items
    reference = refer_to(found[0]) if found else ModelReference()
    tell(f"version {reference.version}" if found else "none yet")
    record({"champion": reference.version or "none"})
    return reference


def refer_to(version: object) -> ModelReference:
    """The merged model of a ZenML model version.

    Raises:
        ModelError: the version has none.
    """
    from text2sql.errors import ModelError

    artifact = version.get_artifact("merged_model")  # type: ignore[attr-defined]
    number = str(version.number)  # type: ignore[attr-defined]
    if artifact is None:
        raise ModelError(
            f"model version {number} is in stage {STAGE} and has no merged model to compare with; give the stage to "
            "another version, or archive this one"
        )
    return ModelReference(number, str(artifact.id), str(artifact.run_metadata.get("sha256", "")))
