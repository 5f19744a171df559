"""Base models and tokenizers: where they come from, on which device, and in which precision.

Only safetensors are read: other checkpoints can run code when they are opened (CVE-2025-32434).
"""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from text2sql.config import ModelSection, TrainingSection
from text2sql.data.chat import end_of_turn
from text2sql.errors import ModelError
from text2sql.hub import FETCHED, remedy, snapshot
from text2sql.noise import is_loud
from text2sql.progress import working

Precision = Literal["bf16", "fp16", "fp32"]
DTYPES: dict[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
PAD_CANDIDATES = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|endoftext|>")
AMPERE = 8
"""First major compute capability whose bf16 matrix units are not emulated."""


def training_device() -> torch.device:
    """The GPU of this process (LOCAL_RANK when launched by torchrun), or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def resolve_precision(precision: str, device: torch.device) -> Precision:
    """What `training.precision` means on a device.

    auto is bf16 on Ampere and newer, fp16 on older GPUs, and fp32 on the CPU: bf16 autocast trained a 2.6 M model at
    5,400 tokens/s where fp32 reached 7,300 (two cores with AVX512-BF16).

    Raises:
        ModelError: for fp16 on the CPU, which has no fast fp16 arithmetic to gain from.
    """
    if precision == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= AMPERE else "fp16"
    if precision == "fp16" and device.type != "cuda":
        raise ModelError("training.precision fp16 needs a CUDA GPU and none is visible; set it to auto, bf16 or fp32")
    return cast("Precision", precision)


def fetch(name: str, revision: str | None = None) -> None:
    """Have a model of the hub in its cache before it is loaded; transformers would fetch it without a word.

    Raises:
        ModelError: it is not to be had.
    """
    if Path(name).is_dir():
        return
    with explained(name), contextlib.nullcontext() if sys.stderr.isatty() else working(f"fetching {name}"):
        snapshot(name, revision, FETCHED)


def load_tokenizer(model: ModelSection) -> PreTrainedTokenizerBase:
    """The model's tokenizer with a pad token of its own; that of a chat model ends with the end of its turn.

    A tokenizer without one (Mistral's) gets an existing token that no SQL needs: a reserved pad token, else the
    unknown token, and only where there is neither a new one. pad = eos would mask the end token (trl#1623).

    Raises:
        ModelError: if it cannot be loaded, has no end token (or chat template, if asked for one), or appends the end
            token to every prompt.
    """
    with explained(model.name), quiet():
        tokenizer = AutoTokenizer.from_pretrained(
            model.name, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer of {model.name!r} has no eos_token, so a model could not learn to stop")
    if tokenizer("x")["input_ids"][-1:] == [tokenizer.eos_token_id]:
        raise ModelError(
            f"the tokenizer of {model.name!r} appends its end token to every prompt; set add_eos_token to false in "
            "its tokenizer_config.json"
        )
    if model.chat_template:
        tokenizer.eos_token = end_of_turn(tokenizer)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        _give_pad_token(tokenizer)
    tokenizer.padding_side = "left"
    return tokenizer


def _give_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    vocabulary = tokenizer.get_vocab()
    for token in (*PAD_CANDIDATES, tokenizer.unk_token):
        if token in vocabulary and token not in (tokenizer.eos_token, tokenizer.bos_token):
            tokenizer.pad_token = token
            return
    tokenizer.add_special_tokens({"pad_token": PAD_CANDIDATES[0]})


def load_base(
    model: ModelSection,
    training: TrainingSection,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: torch.device | None = None,
) -> PreTrainedModel:
    """The base model as it is trained on: quantised by `model`, the rest in the precision of `training`.

    `device` says where it is put; the precision is always that of the training device, so that a model merged on the
    CPU is quantised like the one that was trained on the GPU. The embeddings grow only if `tokenizer` has more tokens
    than the model.

    Raises:
        ModelError: missing, unreachable, without safetensors, of another checksum, or not quantisable here.
    """
    device = device or training_device()
    precision = resolve_precision(training.precision, training_device())
    options: dict[str, Any] = {}
    if model.quantization_bits != 16:
        options["quantization_config"] = quantization(model, precision, device)
    if training.packing and device.type == "cuda":
        options["attn_implementation"] = _packing_attention(precision)
    check_folder(model)
    base = _load(
        model.name,
        tokenizer,
        dtype=DTYPES[precision],
        device_map={"": device},
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        **options,
    )
    if device.type == "cpu":
        _keep_differentiable(base)
    return base


def _keep_differentiable(model: nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights when a model answers on a CPU with AVX512-BF16.

    The first forward pass in eval mode would repack them in place for a bf16 kernel that has no gradient, and training
    would go on after the first validation loss with no gradient through any quantised layer (bitsandbytes 0.50,
    nn.Linear4bit.forward). Plain de-quantisation also answers in the compute dtype, as training did.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.__dict__["support_avx512bf16_for_cpu"] = False


def load_for_inference(
    name: str | Path,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: torch.device | None = None,
    chat_template: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A 16-bit model (hub name or folder) and its tokenizer, ready to answer: eval mode, on the GPU if there is one.

    On the CPU the weights are widened to fp32, which is faster there and makes answers depend less on the batch.
    """
    device = device or training_device()
    section = ModelSection(
        name=str(name), revision=revision, trust_remote_code=trust_remote_code, chat_template=chat_template
    )
    tokenizer = load_tokenizer(section)
    precision = resolve_precision("auto", device)
    model = _load(
        section.name,
        tokenizer,
        dtype=DTYPES[precision],
        device_map={"": device},
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    model.train(mode=False)
    return model, tokenizer


def quantization(model: ModelSection, precision: Precision, device: torch.device) -> Any:
    """The BitsAndBytesConfig for 4 or 8 bits.

    Raises:
        ModelError: for 8 bits without CUDA.
    """
    import transformers

    config: Any = transformers.BitsAndBytesConfig
    if model.quantization_bits == 8:
        if device.type != "cuda":
            raise ModelError(
                "model.quantization_bits 8 needs a CUDA GPU and none is visible; set it to 4 (NF4 has a CPU path) or 16"
            )
        return config(load_in_8bit=True)
    name = model.bnb_4bit_compute_dtype
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type=model.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=model.use_nested_quant,
        bnb_4bit_compute_dtype=DTYPES[precision if name == "auto" else name],
    )


def _packing_attention(precision: str) -> str:
    """FlashAttention keeps packed rows apart without paying for the square of the whole sequence; SDPA masks it.

    It wants Ampere or newer and 16 bits.
    """
    from transformers.utils.import_utils import is_flash_attn_2_available

    able = precision != "fp32" and torch.cuda.get_device_capability() >= (8, 0)
    return "flash_attention_2" if able and is_flash_attn_2_available() else "sdpa"


def _load(name: str, tokenizer: PreTrainedTokenizerBase | None, **options: Any) -> PreTrainedModel:
    with explained(name), quiet():
        model: Any = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True, **options)
    if tokenizer is None:
        return model  # type: ignore[no-any-return]
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        _grow(model, len(tokenizer))
    for config in (model.config.get_text_config(), model.generation_config):
        config.pad_token_id = tokenizer.pad_token_id
        config.bos_token_id = tokenizer.bos_token_id
        declared = config.eos_token_id
        ends = list(declared) if isinstance(declared, list) else [declared] if declared is not None else []
        if tokenizer.eos_token_id not in ends:
            config.eos_token_id = [*ends, tokenizer.eos_token_id] if ends else tokenizer.eos_token_id
    return model  # type: ignore[no-any-return]


@torch.no_grad()
def _grow(model: Any, count: int) -> None:
    """Give new tokens the mean of all others, in embeddings and head.

    Rows drawn at random would be others when a run goes on, and when its adapter is merged; and a random row can score
    above all others where these score far below zero, as GPT-2's do.
    """
    before = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(count, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        for tensor in layer.parameters():
            tensor[before:] = tensor[:before].float().mean(0).to(tensor.dtype)


def check_folder(model: ModelSection) -> None:
    """Compare a local folder with `model.sha256`, if that is set.

    Raises:
        ModelError: if they differ.
    """
    if model.sha256 is None or not Path(model.name).is_dir():
        return
    from text2sql.data.files import sha256_folder

    found = sha256_folder(Path(model.name))
    if found != model.sha256:
        raise ModelError(
            f"model folder {model.name} has SHA-256 {found} and model.sha256 says {model.sha256}; "
            "restore the folder, or correct the checksum if the change was meant"
        )


UNREADABLE = OSError | ValueError | ImportError | RuntimeError | KeyError


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what transformers raises for a missing or unreadable model into one line with a remedy."""
    from safetensors import SafetensorError

    try:
        yield
    except Exception as error:
        from_hub = type(error).__module__.startswith("httpx")  # the hub's client lets a broken-off download through
        if not from_hub and not isinstance(error, UNREADABLE | SafetensorError):
            raise
        reason = " ".join(str(error).split())
        raise ModelError(f"cannot load model {name!r}: {_remedy(name, reason)} ({_shorten(reason)})") from error


def _remedy(name: str, reason: str) -> str:
    folder = Path(name)
    if "safetensors" in reason and "no file named" in reason.lower():
        return "it has no safetensors weights, and other formats are refused; convert it to safetensors first"
    if folder.is_dir():
        return "the folder is not a complete model; it needs config.json, *.safetensors and the tokenizer's files"
    if folder.is_absolute() or name.startswith(".") or name.count("/") != 1 or Path(name).parts[0] in _folders():
        near = difflib.get_close_matches(folder.name, _folders(folder.parent), n=1)
        hint = f"; did you mean {folder.parent / near[0]}?" if near else ""
        return f"there is no such folder{hint}; set model.name to a local folder or to a model of the hub"
    return remedy(name)


def _folders(parent: Path = Path()) -> list[str]:
    try:
        return [entry.name for entry in parent.iterdir() if entry.is_dir()]
    except OSError:
        return []


def _shorten(text: str, length: int = 200) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No loading bars of transformers, which would cut through ours, and no deprecations among the libraries.

    peft and TRL still call what transformers has renamed; their users can do nothing about it.
    """
    if is_loud():
        yield
        return
    from transformers.utils import logging

    library: Any = logging
    shown = library.is_progress_bar_enabled()
    library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|trl|accelerate)\b")
            yield
    finally:
        if shown:
            library.enable_progress_bar()
