"""Step 5: one model of base and adapter."""

from typing import Annotated

from datasets import DatasetDict
from zenml import step

from materializers.figures import ReportMaterializer
from materializers.model_folder import ModelFolderMaterializer, cache_folder, keep
from materializers.types import ModelFolder, Report
from steps.cache import BY_CODE
from steps.console import announce, record, tell
from text2sql.config import Settings
from text2sql.progress import working


@step(
    cache_policy=BY_CODE,
    output_materializers={"merged_model": ModelFolderMaterializer, "parity_report": ReportMaterializer},
)
def merge(
    adapter: ModelFolder, splits: DatasetDict, settings: Settings
) -> tuple[Annotated[ModelFolder, "merged_model"], Annotated[Report, "parity_report"]]:
    """Fold the adapter into its base, and prove that the result still answers alike."""
    from dataclasses import asdict

    from text2sql.data.files import new_folder

    announce("merge", f"adapter into the {settings.merge.base} base, {settings.merge.dtype}")
    with working("loading PEFT"):
        from text2sql.training.merge import merge_adapter
    rows = splits["validation"] if splits["validation"].num_rows else splits["train"]
    with new_folder(cache_folder()) as folder:
        merged = merge_adapter(adapter.path, settings, rows, folder / "model")
        model = keep(merged.path)
    figures = {name: value for name, value in asdict(merged.parity).items() if isinstance(value, int | float | str)}
    tell(f"the merged model agrees with adapter on base on {merged.parity.agreement:.0%} of {merged.parity.rows} rows")
    record(figures)
    return model, Report("Adapter on base, and merged model", figures)
