"""Liger's kernels, where they can be had; they themselves need a GPU, and are not run here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers.models.mistral.modeling_mistral as mistral
from transformers.integrations import liger as integration

from tests.training_fixtures import splits, tiny_settings
from text2sql.errors import TrainingError
from text2sql.training.finetune import finetune
from text2sql.training.liger import PARTS, check_liger, use_liger
from text2sql.training.model import load_base


def test_without_a_gpu_it_is_refused_before_anything_is_loaded(tmp_path: Path, tiny_model: Path) -> None:
    settings = tiny_settings(tiny_model, tmp_path, training={"use_liger_kernel": True})
    with pytest.raises(TrainingError, match="use_liger_kernel needs a CUDA GPU and none is visible; set it to false"):
        finetune(splits(), settings)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.skipif(integration.is_liger_kernel_available(), reason="it is installed")
def test_without_the_package_it_is_refused() -> None:
    with pytest.raises(TrainingError, match="which is not installed; run pip install liger-kernel, or set it to false"):
        check_liger(cuda=True)


def test_other_models_of_the_process_stay_as_they_were(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a patch that does what Liger's does: bind methods to the model's parts, and replace the classes behind."""
    asked: list[dict[str, bool]] = []

    def patch(model: Any, parts: dict[str, bool]) -> None:
        asked.append(parts)
        for layer in model.model.layers:
            layer.mlp.forward = type(layer.mlp).forward.__get__(layer.mlp)
        mistral.MistralRMSNorm = object  # type: ignore[assignment,misc]

    monkeypatch.setattr(integration, "apply_liger_kernel", patch)
    settings, norm = tiny_settings(tiny_model, tmp_path), mistral.MistralRMSNorm
    assert use_liger(load_base(settings.model, settings.training)) == 2
    assert mistral.MistralRMSNorm is norm
    assert asked == [PARTS]


def test_an_architecture_that_it_passes_over_is_said(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integration, "apply_liger_kernel", lambda *_: None)
    settings = tiny_settings(tiny_model, tmp_path)
    with pytest.raises(TrainingError, match="Liger has no kernels for models of type mistral"):
        use_liger(load_base(settings.model, settings.training))
