"""Fold an adapter into 16-bit weights, and prove that what was written to disk answers like adapter and base did.

Never into 4-bit weights (peft#2321): every layer is de-quantised first, or read as it was published, the product of
the LoRA matrices is added in fp32, and the sum is rounded once.
"""

from __future__ import annotations

import gc
import shutil
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from text2sql.config import EvaluationSection, ModelSection, Settings
from text2sql.data.files import new_folder
from text2sql.data.prompt import encode_rows
from text2sql.errors import ModelError, ParityError
from text2sql.progress import working
from text2sql.training.checkpoints import writing
from text2sql.training.decoding import completion_logits, generate_tokens
from text2sql.training.model import (
    DTYPES,
    fetch,
    load_base,
    load_for_inference,
    load_tokenizer,
    quiet,
    training_device,
)
from text2sql.training.recipe import recipe_of, write_recipe

AT_ONCE = 256
"""Tokens whose logits are compared together: of a vocabulary of 152k they take 156 MB, and some copies."""


@dataclass(frozen=True)
class ParityReport:
    """The merged model, read back from disk, beside the adapter on its base, over the same rows."""

    rows: int
    agreement: float
    """Share of rows with the same greedy answer, token for token."""
    max_logit_difference: float
    """Over every gold token of every row and the whole vocabulary."""
    mean_logit_difference: float
    mean_kl: float
    """KL(adapter || merged) a token, in nats."""
    first_difference: tuple[str, str, str] | None = None
    """(prompt, adapter's answer, merged model's answer) of the first row that differs."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class MergeResult:
    """Where the merged model is, and how it compared."""

    path: Path
    parity: ParityReport


@dataclass(frozen=True)
class Answers:
    """What one model says: greedy tokens a row, and logits over the gold tokens (tokens, vocabulary) on the CPU."""

    tokens: list[list[int]]
    logits: torch.Tensor


def merge_adapter(adapter: Path, settings: Settings, rows: Dataset, output: Path) -> MergeResult:
    """Write the merged model to `output`, which appears only when it has passed the comparison.

    `rows` have `prompt` and `completion`; the first merge.parity_rows of them are compared.

    Raises:
        ParityError: fewer than merge.min_agreement of the answers are the same.
        ModelError: the adapter or its base cannot be read, or there is no row to compare on.
        OutputError: the disk is full.
    """
    rows = rows.select(range(min(settings.merge.parity_rows, len(rows))))
    if len(rows) == 0:
        raise ModelError("no row to compare the merged model on; raise data.val_ratio")
    check_adapter(adapter)
    tokenizer = load_tokenizer(ModelSection(name=str(adapter)))
    expected = _adapter_answers(adapter, settings, tokenizer, rows)
    _free_memory()
    output = output.absolute()
    with writing(output), new_folder(output.parent) as draft:
        with working("folding the adapter into its base"):
            write_merged(adapter, settings, tokenizer, draft)
        write_recipe(draft, recipe_of(settings))
        _free_memory()
        parity = compare(expected, _merged_answers(draft, settings, rows), tokenizer, rows)
        if parity.agreement < settings.merge.min_agreement:
            raise ParityError(_explain(parity, settings))
        shutil.rmtree(output, ignore_errors=True)
        draft.rename(output)
    return MergeResult(output, parity)


def check_adapter(adapter: Path) -> None:
    """Raises:
    ModelError: the folder is no adapter, or one that is not in safetensors.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (adapter / name).is_file():
            raise ModelError(f"{adapter} is no adapter: it has no {name}; run the finetune step first")


def load_adapter(
    adapter: Path, settings: Settings, tokenizer: PreTrainedTokenizerBase, device: torch.device | None = None
) -> Any:
    """The adapter on the base it was trained on, quantised as it was then.

    Raises:
        ModelError: it is damaged, or was trained on another base.
    """
    base = load_base(settings.model, settings.training, tokenizer, device)
    try:
        with quiet(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            model = PeftModel.from_pretrained(base, str(adapter)).eval()
        with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
            found = set(file.keys())
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"adapter {adapter} does not fit {settings.model.name} ({reason}); train it again") from error
    wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if found != wanted:  # peft loads what fits, and leaves the rest as it was initialised
        odd = sorted(found ^ wanted)
        raise ModelError(
            f"adapter {adapter} does not fit {settings.model.name}: {len(wanted - found)} tensors are missing and "
            f"{len(found - wanted)} belong nowhere ({odd[0]}, ...); train it again"
        )
    return model


def write_merged(adapter: Path, settings: Settings, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Merge on the CPU, layer by layer, and save weights, tokenizer and configs.

    The CPU needs room for the 16-bit model beside the quantised one; LLM.int8() weights can only be opened on a GPU.
    """
    section = settings.model
    if settings.merge.base == "original":
        section = section.model_copy(update={"quantization_bits": 16})
    device = training_device() if section.quantization_bits == 8 else torch.device("cpu")
    model = load_adapter(adapter, settings.model_copy(update={"model": section}), tokenizer, device)
    dtype = DTYPES[settings.merge.dtype]
    state = merged_state(model, dtype)
    base = model.get_base_model()
    config = base.config
    for quantised in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, quantised):
            delattr(config, quantised)
    config.dtype = dtype
    with torch.device("meta"):
        factory: Any = AutoModelForCausalLM
        merged = factory.from_config(config, dtype=dtype, trust_remote_code=section.trust_remote_code)
    merged.load_state_dict(state, strict=True, assign=True)
    merged.tie_weights()
    merged.generation_config = base.generation_config
    merged.generation_config.do_sample = False
    with quiet():
        merged.save_pretrained(str(folder), max_shard_size=settings.merge.max_shard_size)
    tokenizer.save_pretrained(str(folder))


@torch.no_grad()
def merged_state(model: PeftModel, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The base's state dict with every LoRA product added (in fp32) and every weight rounded to `dtype`, on the CPU."""
    base: Any = model.get_base_model()
    state: dict[str, torch.Tensor] = {}
    inside: set[str] = set()
    for name, module in base.named_modules():
        if isinstance(module, LoraLayer):
            layer: Any = module.get_base_layer()
            weight = full_weight(layer) + lora_product(module)
        elif _is_quantised(module) and not any(name.startswith(prefix) for prefix in inside):
            layer, weight = module, full_weight(module)
        else:
            continue
        inside.add(f"{name}.")
        state[f"{name}.weight"] = weight.to(dtype).contiguous()
        if layer.bias is not None:
            state[f"{name}.bias"] = layer.bias.detach().cpu().to(dtype)
    for name, tensor in base.state_dict().items():
        if not any(name.startswith(prefix) for prefix in inside):
            state[name] = tensor.detach().cpu().to(dtype) if tensor.is_floating_point() else tensor.detach().cpu()
    return state


def lora_product(module: Any) -> torch.Tensor:
    """scaling · B @ A of a LoRA layer in fp32, shape (out, in)."""
    products = [
        module.scaling[name] * (module.lora_B[name].weight.float() @ module.lora_A[name].weight.float())
        for name in module.active_adapters
    ]
    return torch.stack(products).sum(0).cpu()


def full_weight(layer: Any) -> torch.Tensor:
    """A linear layer's weight in fp32 on the CPU, de-quantised if need be (without rounding to the compute dtype)."""
    quant_state = getattr(layer.weight, "quant_state", None)
    if quant_state is not None:
        quant_state.dtype = torch.float32
    return dequantize_module_weight(layer).detach().float().cpu()


def _is_quantised(module: nn.Module) -> bool:
    return type(getattr(module, "weight", None)).__name__ in ("Params4bit", "Int8Params")


def _adapter_answers(adapter: Path, settings: Settings, tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> Answers:
    fetch(settings.model.name, settings.model.revision)
    with working(f"loading the adapter on {settings.model.name}"):
        model = load_adapter(adapter, settings, tokenizer)
    return answers_of(model, tokenizer, rows, settings.evaluation)


def _merged_answers(folder: Path, settings: Settings, rows: Dataset) -> Answers:
    with working("loading the merged model"):
        model, tokenizer = load_for_inference(folder, trust_remote_code=settings.model.trust_remote_code)
    return answers_of(model, tokenizer, rows, settings.evaluation)


def answers_of(model: Any, tokenizer: PreTrainedTokenizerBase, rows: Dataset, evaluation: EvaluationSection) -> Answers:
    """Greedy answers to the rows' prompts, and the logits over their completions."""
    prompts = rows["prompt"][:]
    batch, limit = evaluation.batch_size, evaluation.max_new_tokens
    tokens = generate_tokens(model, tokenizer, prompts, limit, batch, label="comparing")
    encoded = encode_rows(tokenizer, prompts, rows["completion"][:])
    pad = int(tokenizer.pad_token_id)
    logits = [found.cpu() for _, found, _ in completion_logits(model, encoded, pad, batch)]
    return Answers(tokens, torch.cat(logits))


def compare(expected: Answers, found: Answers, tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> ParityReport:
    """Figures of how far `found` is from `expected`; NaN logits count as infinitely far."""
    same = [a == b for a, b in zip(expected.tokens, found.tokens, strict=True)]
    worst = total = divergence = 0.0
    parts = (torch.split(answers.logits, AT_ONCE) for answers in (expected, found))
    for ours, theirs in zip(*parts, strict=True):
        difference = (ours - theirs).abs().nan_to_num(nan=float("inf"))
        p, q = ours.log_softmax(-1), theirs.log_softmax(-1)
        worst = max(worst, float(difference.max()))
        total += float(difference.sum(dtype=torch.float64))
        divergence += float((p.exp() * (p - q)).sum(-1).nan_to_num(nan=float("inf")).sum(dtype=torch.float64))
    first = None
    if not all(same):
        row = same.index(False)
        first = (
            str(rows["prompt"][row]),
            str(tokenizer.decode(expected.tokens[row])),
            str(tokenizer.decode(found.tokens[row])),
        )
    return ParityReport(
        rows=len(same),
        agreement=sum(same) / len(same),
        max_logit_difference=worst,
        mean_logit_difference=total / expected.logits.numel(),
        mean_kl=divergence / len(expected.logits),
        first_difference=first,
    )


def _explain(parity: ParityReport, settings: Settings) -> str:
    text = (
        f"the merged model does not answer like the adapter on its base: {parity.agreement:.0%} of {parity.rows} "
        f"answers are the same and merge.min_agreement is {settings.merge.min_agreement:.0%} (logits differ by "
        f"{parity.mean_logit_difference:.3g} on average and {parity.max_logit_difference:.3g} at most, "
        f"KL {parity.mean_kl:.3g})"
    )
    if parity.first_difference is not None:
        _, adapter, merged = parity.first_difference
        text += f"; first difference: {adapter[:80]!r} became {merged[:80]!r}"
    remedy = "set merge.base to dequantized" if settings.merge.base == "original" else "try merge.dtype float16"
    return f"{text}; {remedy}, or look for a damaged adapter"


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
