"""A model's shape: exact counts of its parameters, from its config alone and without its weights.

The model is built on torch's meta device, where tensors have shapes and no memory, so that counts hold for every
architecture that transformers can build.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from text2sql.config import ModelSection
from text2sql.errors import ModelError, TrainingError

BUILT_IN = Path(__file__).with_name("shapes.yaml")


@dataclass(frozen=True)
class Linear:
    """Layers of one name and size: `count` matrices of `inputs` × `outputs`."""

    name: str
    inputs: int
    outputs: int
    count: int

    @property
    def parameters(self) -> int:
        """Of their weights together."""
        return self.inputs * self.outputs * self.count


@dataclass(frozen=True)
class Shape:
    """What of a decoder decides memory and arithmetic."""

    name: str
    source: str
    """Where it came from, for people."""
    parameters: int
    linears: tuple[Linear, ...]
    """Every nn.Linear but the output head: what is quantised, and what adapters go beside."""
    head_inputs: int
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    intermediate: int
    gated: bool
    """Whether the feed-forward part multiplies two branches (SwiGLU), and so keeps two tensors more."""

    @property
    def linear_parameters(self) -> int:
        """Weights of the linear layers without the output head."""
        return sum(linear.parameters for linear in self.linears)

    @property
    def largest_linear(self) -> int:
        """Weights of the largest single layer: what is de-quantised at a time."""
        return max(linear.inputs * linear.outputs for linear in self.linears)

    def targeted(self, targets: Collection[str]) -> tuple[Linear, ...]:
        """The layers that get an adapter.

        Raises:
            TrainingError: a name that no layer has.
        """
        names = sorted({linear.name for linear in self.linears})
        if missing := [name for name in targets if name not in names]:
            raise TrainingError(
                f"lora.target_modules {missing} match no layer of {self.name}; its layers are {', '.join(names)}"
            )
        return tuple(linear for linear in self.linears if linear.name in targets)

    def adapter_parameters(self, rank: int, targets: Collection[str]) -> int:
        """r · (inputs + outputs) a layer (Hu et al. 2021)."""
        return sum(rank * (part.inputs + part.outputs) * part.count for part in self.targeted(targets))


def shape_of(model: ModelSection) -> Shape:
    """The shape of a local folder, of a model in the hub's cache, of one that is built in, or of one on the hub.

    In this order: a plan needs no network where it can do without, and the shape of a published model stays.

    Raises:
        ModelError: its config cannot be had, or it is no decoder whose shape is known.
    """
    if Path(model.name).is_dir() or in_cache(model.name, "config.json", model.revision):
        return shape_of_config(_read_config(model), model, f"config.json of {model.name}")
    if (config := built_in_config(model.name)) is not None:
        return shape_of_config(config, model, f"built in for {model.name}; nothing was downloaded")
    from text2sql.hub import check_on_hub

    check_on_hub(model.name, model.revision)
    return shape_of_config(_read_config(model), model, f"config.json of {model.name} on the hub")


def built_in_config(name: str) -> Any:
    """The config of a well-known model, or None."""
    from transformers import AutoConfig

    known = yaml.safe_load(BUILT_IN.read_text(encoding="utf-8")).get(name)
    if known is None:
        return None
    values = dict(known)
    return AutoConfig.for_model(values.pop("model_type"), **values)


def in_cache(name: str, file: str, revision: str | None, kind: str = "model") -> bool:
    """Whether the hub's cache on this machine has a file of a model or data set; asks nobody else."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, file, revision=revision, repo_type=kind), str)
    except HFValidationError:  # a path, not a name of the hub
        return False


def _read_config(model: ModelSection) -> Any:
    from transformers import AutoConfig

    from text2sql.training.model import explained, quiet

    with explained(model.name), quiet():
        return AutoConfig.from_pretrained(
            model.name, revision=model.revision, trust_remote_code=model.trust_remote_code
        )


def shape_of_config(config: Any, section: ModelSection, source: str) -> Shape:
    """Build the model on the meta device and count.

    Raises:
        ModelError: transformers cannot build it, or it has no attention heads and layers in the usual words.
    """
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    from text2sql.training.model import explained, quiet

    name, build = section.name, cast("Any", AutoModelForCausalLM)
    with explained(name), quiet(), torch.device("meta"):
        model: Any = build.from_config(config, trust_remote_code=section.trust_remote_code)
    head = model.get_output_embeddings()
    found = Counter(
        (path.rsplit(".", 1)[-1], module.in_features, module.out_features)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    )
    text = config.get_text_config()
    wanted = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    if head is None or not found or any(getattr(text, key, None) is None for key in wanted):
        raise ModelError(f"the memory of {name!r} cannot be planned: it is no decoder of linear layers with a head")
    heads, hidden = int(text.num_attention_heads), int(text.hidden_size)
    linears = tuple(Linear(*kind, count) for kind, count in found.items())
    return Shape(
        name=name,
        source=source,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        linears=linears,
        head_inputs=int(head.weight.shape[1]),
        vocabulary=int(head.weight.shape[0]),
        hidden=hidden,
        layers=int(text.num_hidden_layers),
        heads=heads,
        key_value_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_size=int(getattr(text, "head_dim", None) or hidden // heads),
        intermediate=int(getattr(text, "intermediate_size", None) or 4 * hidden),
        gated=any(linear.name in ("gate_proj", "gate_up_proj") for linear in linears),
    )
