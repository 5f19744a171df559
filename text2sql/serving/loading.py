"""A model to serve: merged, from the hub, or an adapter on its base. Safetensors only, and none of its own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from text2sql.config import ModelSection, Settings
from text2sql.serving.checkpoint import ADAPTER_CONFIG, base_of, check_weights, local_folder
from text2sql.training.model import load_for_inference, load_tokenizer, training_device


def load_served(
    name: str | Path, base: str | Path | None = None, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer, ready to answer on the GPU, or on the CPU in fp32.

    Raises:
        ModelError: it cannot be loaded, has pickled weights, or wants to run code.
    """
    folder = local_folder(name, revision, trust_remote_code)
    check_weights(folder, trust_remote_code)
    if (folder / ADAPTER_CONFIG).is_file():
        return load_adapted(folder, base, revision if folder == Path(name) else None, trust_remote_code)
    return load_for_inference(folder, None, trust_remote_code)


def load_adapted(
    adapter: Path, base: str | Path | None, revision: str | None, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The adapter on its base in 16 bits.

    What was trained over 4-bit weights answers a little differently here (peft#2105); the merged folder is what the
    evaluation judged. In fp32 the adapter is folded in, which rounds nothing that counts and halves the work.

    Raises:
        ModelError: the adapter does not fit, or its base is not to be had.
    """
    import torch

    from text2sql.training.merge import check_adapter, load_adapter

    check_adapter(adapter)
    below = local_folder(base_of(adapter, base), revision, trust_remote_code)
    check_weights(below, trust_remote_code)
    section = ModelSection(name=str(below), quantization_bits=16, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(section.model_copy(update={"name": str(adapter)}))
    model: Any = load_adapter(adapter, Settings(model=section), tokenizer, training_device())
    if next(model.parameters()).dtype == torch.float32:
        model = model.merge_and_unload()
    return model.eval(), tokenizer


def longest_sequence(model: PreTrainedModel) -> int:
    """Tokens of prompt and answer that the model can tell apart; a sliding window is not slid over."""
    config = model.config.get_text_config()
    bounds = [getattr(config, "max_position_embeddings", None), getattr(config, "sliding_window", None)]
    return min(int(bound) for bound in bounds if bound) if any(bounds) else 1 << 20
