"""Step 4: an adapter for the quantised base."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from datasets import DatasetDict
from zenml import get_step_context, step

from materializers.figures import TrainingHistoryMaterializer
from materializers.model_folder import ModelFolderMaterializer, cache_folder, keep
from materializers.types import ModelFolder, TrainingHistory
from steps.cache import BY_CODE
from steps.console import announce, record, tell
from text2sql.config import Settings, WandbSection
from text2sql.progress import working

if TYPE_CHECKING:
    from text2sql.training.finetune import TrainedAdapter


@step(
    cache_policy=BY_CODE,
    output_materializers={"adapter": ModelFolderMaterializer, "training_history": TrainingHistoryMaterializer},
)
def finetune(
    splits: DatasetDict, settings: Settings
) -> tuple[Annotated[ModelFolder, "adapter"], Annotated[TrainingHistory, "training_history"]]:
    """Train LoRA on the base, from the last checkpoint where an earlier run was killed."""
    from dataclasses import asdict

    from text2sql.data.files import new_folder

    announce("finetune", f"LoRA r {settings.lora.r} on {settings.model.name}, {settings.model.quantization_bits} bits")
    with working("loading torch"):
        train = _training()
    settings = settings.model_copy(update={"wandb": _named(settings.wandb)})
    with new_folder(cache_folder()) as folder:
        trained = train(splits, settings, folder / "adapter")
        adapter = keep(trained.path)
    figures = {name: value for name, value in asdict(trained).items() if name not in ("path", "history")}
    last = {f"last_{key}": value for point in trained.history for key, value in point.items() if key != "step"}
    tell(f"{trained.steps:,} steps in {trained.seconds:.0f} s")
    record({**figures, **last})
    return adapter, TrainingHistory(trained.history, figures)


def _training() -> "Callable[[DatasetDict, Settings, Path], TrainedAdapter]":
    """Here, or on the nodes that stacks/ gives this step."""
    from text2sql.deployment.kubernetes.nodes import TEMPLATE, finetune_on_nodes
    from text2sql.training.distributed import finetune_here

    return finetune_on_nodes if TEMPLATE in os.environ else finetune_here


def _named(wandb: WandbSection) -> WandbSection:
    """W&B runs carry the ZenML run's name unless they have one of their own."""
    try:
        run = get_step_context().pipeline_run.name
    except RuntimeError:  # called by itself, outside a pipeline
        run = None
    return wandb.model_copy(update={"run_name": wandb.run_name or run})
