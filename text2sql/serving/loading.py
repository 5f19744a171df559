"""A model to serve: merged, from the hub, or an adapter on its base. Safetensors only, and none of its own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from text2sql.config import ModelSection, Settings
from text2sql.errors import ModelError
from text2sql.training.model import load_for_inference, load_tokenizer, training_device

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CONFIGS = ("config.json", "tokenizer_config.json")


def load_served(
    name: str | Path, base: str | Path | None = None, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer, ready to answer on the GPU, or on the CPU in fp32.

    Raises:
        ModelError: it cannot be loaded, has pickled weights, or wants to run code.
    """
    folder = Path(name)
    if folder.is_dir():
        check_weights(folder, trust_remote_code)
        if (folder / "adapter_config.json").is_file():
            return load_adapted(folder, base, revision, trust_remote_code)
    return load_for_inference(name, revision, trust_remote_code)


def check_weights(folder: Path, trust_remote_code: bool = False) -> None:
    """Look at a folder without opening its weights: a pickle runs code when it is opened (CVE-2025-32434).

    Pickles beside safetensors are never read, and are let be.

    Raises:
        ModelError: the weights are pickled, or the configs name code to run.
    """
    files = [path for path in folder.iterdir() if path.is_file()]
    pickles = sorted(path.name for path in files if path.suffix in PICKLES)
    if pickles and not any(path.suffix == ".safetensors" for path in files):
        raise ModelError(
            f"model {str(folder)!r} has pickled weights ({pickles[0]}), which can run code when they are opened; "
            "convert them to safetensors"
        )
    for config in CONFIGS:
        if not trust_remote_code and "auto_map" in _read_json(folder / config):
            raise ModelError(
                f"{config} of model {str(folder)!r} names Python code to run (auto_map); serve a model without, or "
                "allow it with trust_remote_code if you have read that code"
            )


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
    named = base or _read_json(adapter / "adapter_config.json").get("base_model_name_or_path")
    if not named:
        raise ModelError(f"adapter {str(adapter)!r} does not say what its base is; name it")
    if Path(named).is_dir():
        check_weights(Path(named), trust_remote_code)
    section = ModelSection(
        name=str(named), revision=revision, quantization_bits=16, trust_remote_code=trust_remote_code
    )
    tokenizer = load_tokenizer(section.model_copy(update={"name": str(adapter), "revision": None}))
    model: Any = load_adapter(adapter, Settings(model=section), tokenizer, training_device())
    if next(model.parameters()).dtype == torch.float32:
        model = model.merge_and_unload()
    return model.eval(), tokenizer


def longest_sequence(model: PreTrainedModel) -> int:
    """Tokens of prompt and answer that the model can tell apart; a sliding window is not slid over."""
    config = model.config.get_text_config()
    bounds = [getattr(config, "max_position_embeddings", None), getattr(config, "sliding_window", None)]
    return min(int(bound) for bound in bounds if bound) if any(bounds) else 1 << 20


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
