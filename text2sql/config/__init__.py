"""Every setting: one frozen class a YAML section; the text under a field is its help.

The defaults are those of configs/mistral_7b.yaml; text2sql/config_file.py reads such files.
"""

from text2sql.config.data import DEFAULT_PROMPT, DataSection, RealisticSection, SyntheticSection
from text2sql.config.deployment import DeploySection, KubernetesSection
from text2sql.config.evaluation import SLICE_DIMENSIONS, Beats, EvaluationSection, GateSection, Threshold, Thresholds
from text2sql.config.section import Section
from text2sql.config.settings import Settings
from text2sql.config.training import LoraSection, MergeSection, ModelSection, TrainingSection, WandbSection

__all__ = [
    "DEFAULT_PROMPT",
    "SLICE_DIMENSIONS",
    "Beats",
    "DataSection",
    "DeploySection",
    "EvaluationSection",
    "GateSection",
    "KubernetesSection",
    "LoraSection",
    "MergeSection",
    "ModelSection",
    "RealisticSection",
    "Section",
    "Settings",
    "SyntheticSection",
    "Threshold",
    "Thresholds",
    "TrainingSection",
    "WandbSection",
]
