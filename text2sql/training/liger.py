"""Liger's Triton kernels (Hsu et al. 2024, arXiv 2410.10989) for norms and feed-forward parts, on CUDA alone.

Its fused loss is left out: TRL's, which training on CUDA has anyway, keeps logits from standing whole as well.
"""

from __future__ import annotations

import sys

from transformers import PreTrainedModel
from transformers.integrations import liger
from transformers.utils.import_utils import is_liger_kernel_available

from text2sql.errors import TrainingError

PARTS = {"rms_norm": True, "swiglu": True, "rope": False, "cross_entropy": False, "fused_linear_cross_entropy": False}
"""Rotary positions are left out: Liger replaces them in the module, for every model of the process."""


def check_liger(cuda: bool) -> None:
    """Whether `training.use_liger_kernel` can be had.

    Raises:
        TrainingError: there is no CUDA GPU, or the package is not installed.
    """
    if not cuda:
        raise TrainingError("training.use_liger_kernel needs a CUDA GPU and none is visible; set it to false")
    if not is_liger_kernel_available():
        raise TrainingError(
            "training.use_liger_kernel needs the package liger-kernel, which is not installed; run pip install "
            "liger-kernel, or set it to false"
        )


def use_liger(model: PreTrainedModel) -> int:
    """Give this model Liger's kernels, and no other model of the process; how many of its parts have them.

    Raises:
        TrainingError: Liger has none for its architecture, which the package itself would pass over in silence.
    """
    before = _patched(model)
    classes = vars(sys.modules[type(model).__module__])
    kept = dict(classes)
    try:
        liger.apply_liger_kernel(model, dict(PARTS))
    finally:
        classes.update(kept)  # it replaces the classes of the architecture too, for models that are yet to come
    if not (count := _patched(model) - before):
        raise TrainingError(
            f"Liger has no kernels for models of type {model.config.model_type}; set training.use_liger_kernel to false"
        )
    return count


def _patched(model: PreTrainedModel) -> int:
    return sum("forward" in vars(module) for module in model.modules())
