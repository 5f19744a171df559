"""All sections together, and what two of them exclude."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from text2sql.config.data import DataSection
from text2sql.config.deployment import DeploySection
from text2sql.config.evaluation import EvaluationSection, GateSection
from text2sql.config.section import Name, Section
from text2sql.config.training import LoraSection, MergeSection, ModelSection, TrainingSection, WandbSection


class Settings(Section):
    """All of it: what a run trains, on what, and what it must reach."""

    name: Name = "text2sql-mistral-7b"
    """The ZenML Model under which every run adds a version."""
    output_dir: Path = Path("results")
    """Where adapter, merged model, figures and report are left."""
    model: ModelSection = ModelSection()
    lora: LoraSection = LoraSection()
    training: TrainingSection = TrainingSection()
    data: DataSection = DataSection()
    merge: MergeSection = MergeSection()
    evaluation: EvaluationSection = EvaluationSection()
    gate: GateSection = GateSection()
    wandb: WandbSection = WandbSection()
    deploy: DeploySection = DeploySection()

    def contradictions(self) -> list[str]:
        """What each section allows alone and two of them exclude together, a line each."""
        found: list[str] = []
        if self.evaluation.max_new_tokens >= self.training.max_length:
            found.append(
                f"evaluation.max_new_tokens ({self.evaluation.max_new_tokens}) must be below training.max_length "
                f"({self.training.max_length}): an answer and its prompt share that length"
            )
        wanted = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(self.training.precision)
        if self.model.quantization_bits == 4 and wanted and self.model.bnb_4bit_compute_dtype not in ("auto", wanted):
            found.append(
                f"model.bnb_4bit_compute_dtype {self.model.bnb_4bit_compute_dtype} contradicts training.precision "
                f"{self.training.precision}; set the former to auto"
            )
        if self.training.optim == "muon" and self.lora.bias != "none":
            found.append(f"training.optim muon is for matrices alone; set lora.bias to none (it is {self.lora.bias})")
        if self.deploy.target == "kubernetes" and self.deploy.keep_previous == "running":
            found.append(
                "deploy.keep_previous running is for deploy.target local; a cluster starts the previous release again"
            )
        if not self.deploy.on_loopback and self.deploy.api_keys is None:
            found.append(
                f"deploy.host {self.deploy.host} can be reached from elsewhere, and there are no keys: make one with "
                "`python -m text2sql key NAME --file keys.txt` and set deploy.api_keys=keys.txt"
            )
        return found

    def keep(self, *sections: str, reset: Collection[str] = ()) -> Settings:
        """These settings with every section not named, and every `section.key` of `reset`, at its defaults.

        A step gets only what it depends on, so that a changed gate does not throw a finished training away.
        """
        kept = {name: getattr(self, name) for name in sections}
        for section, key in (name.split(".") for name in reset):
            default = type(kept[section]).model_fields[key].get_default()
            kept[section] = kept[section].model_copy(update={key: default})
        return Settings.model_construct(**kept)
