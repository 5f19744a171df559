"""How benchmarks/gpu.py trains: by the library where all of it is installed, else by a plain loop over like batches."""

from __future__ import annotations

import gc
import importlib.util
import json
import random
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.utils.checkpoint
from torch import nn

CHARACTERS_A_TOKEN = 3.2
TEMPLATE_CHARACTERS = 110
"""Of the default prompt without schema and question."""
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, LONGEST, WARM_UP, CHUNK = 16, 512, 2, 2048
IGNORED = -100
TOKENIZER = Path(__file__).parents[1] / "assets" / "tiny-mistral"


@dataclass(frozen=True)
class Shape:
    """A Mistral, and how much it is fed: rows in all, tokens of a small and of a large micro-batch."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    rows: int
    short: int
    long: int

    def config(self) -> Any:
        from transformers import MistralConfig

        return MistralConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            max_position_embeddings=32768,
            sliding_window=None,
            pad_token_id=0,
        )


@dataclass(frozen=True)
class Variant:
    """One way to train; `tokens` a micro-batch, 0 for four rows of whatever length."""

    name: str
    bits: int
    tokens: int
    checkpointing: bool = False
    packing: bool = False
    liger: bool = False
    plain: bool = False

    def but(self, name: str, **changes: Any) -> Variant:
        return replace(self, name=f"{self.name}, {name}", **changes)


@dataclass(frozen=True)
class Figures:
    tokens_per_second: float
    """That are not padding."""
    useful_share: float
    peak_gib: float | None
    losses: list[float]
    grad_norms: list[float]
    parameters: int
    trainable: int
    mean_length: float
    largest: tuple[int, int, int]
    """Rows, length and tokens with loss of the largest micro-batch."""


def have(*packages: str) -> list[str]:
    """Those of the packages that are not installed."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


def missing(variant: Variant) -> str | None:
    """Why a variant cannot run here."""
    needed = (["bitsandbytes"] if variant.bits != 16 else []) + (["liger_kernel"] if variant.liger else [])
    if lacking := have(*needed):
        return f"not installed: {', '.join(lacking)}"
    if (variant.bits == 8 or variant.liger) and not torch.cuda.is_available():
        return "needs CUDA"
    return None


def texts(path: Path | None, count: int) -> list[dict[str, str]]:
    """Rows of a file, or of the built-in generator, which needs nothing but PyYAML."""
    if path is not None:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][:count]
    from text2sql.data.synthetic import generate_rows

    return list(generate_rows(count, seed=0))


def runner(shape: Shape, work: Path, rows: Path | None, plain_loop: bool) -> Any:
    lacking = have("trl", "datasets", "pydantic", "sqlglot", "accelerate")
    found = texts(rows, shape.rows)
    if lacking or plain_loop:
        return Loop(shape, found, f"for want of {', '.join(lacking)}" if lacking else "as asked for")
    return Product(shape, found, work)


class Product:
    """The library's own `finetune`, and TRL's SFTTrainer as the plain recipe, over a model folder."""

    engine = "text2sql.training.finetune; peer: TRL's SFTTrainer"

    def __init__(self, shape: Shape, rows: list[dict[str, str]], work: Path) -> None:
        from datasets import Dataset, DatasetDict
        from transformers import AutoTokenizer

        from text2sql.config import DEFAULT_PROMPT, ModelSection
        from text2sql.data.prompt import encode_rows, render_prompt
        from text2sql.training.model import load_tokenizer, quiet

        self.shape, self.work, self.folder = shape, work, work / "model"
        if not self.folder.exists():
            with quiet():
                random_model(shape, 16).save_pretrained(self.folder)
                AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(self.folder)
        made = [
            {"prompt": render_prompt(DEFAULT_PROMPT, row["context"], row["question"]), "completion": row["answer"]}
            for row in rows
        ]
        self.tokenizer = load_tokenizer(ModelSection(name=str(self.folder)))
        self.splits = DatasetDict(train=Dataset.from_list(made))
        encoded = encode_rows(self.tokenizer, [row["prompt"] for row in made], [row["completion"] for row in made])
        self.rows = [(len(row["input_ids"]), sum(row["completion_mask"])) for row in encoded]
        self.rows = [row for row in self.rows if row[0] <= LONGEST]
        self.mean = sum(length for length, _ in self.rows) / len(self.rows)

    def settings(self, variant: Variant, steps: int) -> Any:
        from text2sql.config import Settings

        rows = max(1, round(variant.tokens / (LONGEST if variant.packing else self.mean))) if variant.tokens else 4
        return Settings.model_validate(
            {
                "model": {"name": str(self.folder), "quantization_bits": variant.bits},
                "lora": {"r": RANK, "lora_alpha": 2 * RANK, "lora_dropout": 0.0, "target_modules": TARGETS},
                "training": {
                    "max_steps": steps + WARM_UP,
                    "per_device_train_batch_size": rows,
                    "gradient_accumulation_steps": 4 if variant.plain else 1,
                    "gradient_checkpointing": variant.checkpointing,
                    "packing": variant.packing,
                    "use_liger_kernel": variant.liger,
                    "group_by_length": not variant.plain,
                    "max_length": LONGEST,
                    "logging_steps": 1,
                    "save_steps": 10_000,
                    "checkpoint_dir": self.work / "checkpoints",
                },
            }
        )

    def run(self, variant: Variant, steps: int) -> Figures:
        settings = self.settings(variant, steps)
        history, peak, counts = (self._plain if variant.plain else self._ours)(settings)
        timed = history[WARM_UP:]
        size = settings.training.per_device_train_batch_size
        longest = sorted(self.rows)[-size:]
        largest = (size, longest[-1][0], sum(length if variant.plain else scored for length, scored in longest))
        if variant.packing:
            share = sum(scored for _, scored in self.rows) / sum(length for length, _ in self.rows)
            largest = (size, LONGEST, round(size * LONGEST * share))
        return Figures(
            # a mean over seconds, not over steps: a step says tokens / seconds of its own
            tokens_per_second=sum(step["step_tokens"] for step in timed) / sum(step["seconds"] for step in timed),
            useful_share=self._useful(settings),
            peak_gib=peak,
            losses=[step["loss"] for step in history],
            grad_norms=[step["grad_norm"] for step in history],
            parameters=counts[0],
            trainable=counts[1],
            mean_length=self.mean,
            largest=largest,
        )

    def _ours(self, settings: Any) -> tuple[list[dict[str, float]], float | None, tuple[int, int]]:
        from text2sql.training.finetune import finetune

        made = finetune(self.splits, settings, output=self.work / "adapter")
        history, before = [], 0.0
        for step in made.history:
            tokens, before = step["tokens"] - before, step["tokens"]
            if "tokens_per_second" in step:
                history.append({**step, "step_tokens": tokens, "seconds": tokens / step["tokens_per_second"]})
        free()
        return history, made.peak_memory_gib, (made.total_parameters, made.trainable_parameters)

    def _plain(self, settings: Any) -> tuple[list[dict[str, float]], float | None, tuple[int, int]]:
        """The recipe of tutorials: one text a row, loss on all of it, TRL's defaults."""
        from peft import LoraConfig
        from transformers import PrinterCallback
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer

        from text2sql.training.callbacks import SpeedCallback
        from text2sql.training.model import load_base, quiet, resolve_precision, training_device

        training = settings.training
        device = training_device()
        reset_peak()
        with quiet():
            arguments = SFTConfig(
                output_dir=str(self.work / "plain"),
                max_steps=training.max_steps,
                per_device_train_batch_size=training.per_device_train_batch_size,
                gradient_accumulation_steps=training.gradient_accumulation_steps,
                gradient_checkpointing=True,
                gradient_checkpointing_kwargs={"use_reentrant": False},
                bf16=resolve_precision("auto", device) == "bf16",
                learning_rate=training.learning_rate,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=device.type == "cpu",
                include_num_input_tokens_seen="non_padding",
            )
            trainer = SFTTrainer(
                model=load_base(settings.model, training, self.tokenizer),
                args=arguments,
                train_dataset=self.splits["train"].map(
                    lambda row: {"text": row["prompt"] + row["completion"]}, remove_columns=["prompt", "completion"]
                ),
                processing_class=self.tokenizer,
                peft_config=LoraConfig(
                    r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGETS), task_type="CAUSAL_LM"
                ),
            )
            trainer.remove_callback(PrinterCallback)
            trainer.callback_handler.callbacks.insert(1, SpeedCallback())
            trainer.train()
        history, before = [], 0.0
        for entry in trainer.state.log_history:
            if "grad_norm" not in entry:
                continue
            tokens, before = entry["num_input_tokens_seen"] - before, entry["num_input_tokens_seen"]
            history.append({**entry, "step_tokens": tokens, "seconds": tokens / entry["tokens_per_second"]})
        parameters = trainer.model.get_base_model().num_parameters()
        trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        del trainer
        free()
        return history, peak_gib(), (int(parameters), trainable)

    def _useful(self, settings: Any) -> float:
        from text2sql.training.planner.workload import Row, padded

        training = settings.training
        if training.packing:
            return 1.0
        size = training.per_device_train_batch_size
        sample = [Row(*row) for row in self.rows]
        return self.mean / padded(sample, size * training.gradient_accumulation_steps, size, training.group_by_length)


class Loop:
    """Forward, backward, clip, step: no Trainer, and random tokens in rows of real lengths."""

    def __init__(self, shape: Shape, rows: list[dict[str, str]], why: str) -> None:
        self.engine = f"a plain loop, {why}"
        self.shape = shape
        self.rows = []
        for row in rows:
            answer = max(2, round(len(row["answer"]) / CHARACTERS_A_TOKEN))
            length = answer + round((TEMPLATE_CHARACTERS + len(row["context"] + row["question"])) / CHARACTERS_A_TOKEN)
            self.rows.append((min(length, LONGEST), min(answer, LONGEST - 1)))

    def run(self, variant: Variant, steps: int) -> Figures:
        from peft import LoraConfig, get_peft_model

        device = best_device()
        torch.manual_seed(0)
        free()
        reset_peak()
        base = random_model(self.shape, variant.bits, liger=variant.liger)
        targets = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGETS), task_type="CAUSAL_LM")
        model: Any = get_peft_model(base, targets)
        if variant.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.data = parameter.data.float()
        optimizer = torch.optim.AdamW(trained, lr=2e-4)
        model.train()
        losses, norms, useful, computed, begun = [], [], 0, 0, 0.0
        batches, largest = self.batches(variant, device), (0, 0, 0)
        autocast = torch.autocast(device.type, torch.bfloat16) if device.type == "cuda" else nullcontext()
        for step in range(steps + WARM_UP):
            if step == WARM_UP:
                synchronise()
                useful, computed, begun = 0, 0, time.perf_counter()
            group = [next(batches) for _ in range(4 if variant.plain else 1)]
            scored = sum(int((batch["labels"] != IGNORED).sum()) for batch in group)
            total = 0.0
            for batch in group:
                with autocast:
                    loss = loss_of(model, batch, variant) / scored
                loss.backward()
                total += float(loss.detach())
                useful += int(batch["real"])
                computed += batch["input_ids"].numel()
                size = (*batch["input_ids"].shape, int((batch["labels"] != IGNORED).sum()))
                largest = max(largest, size, key=lambda found: found[0] * found[1])
            norms.append(float(nn.utils.clip_grad_norm_(trained, 0.3)))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(total)
        synchronise()
        seconds = time.perf_counter() - begun
        found = Figures(
            tokens_per_second=useful / seconds,
            useful_share=useful / computed,
            peak_gib=peak_gib(),
            losses=losses,
            grad_norms=norms,
            parameters=parameters_of(self.shape),
            trainable=sum(parameter.numel() for parameter in trained),
            mean_length=sum(length for length, _ in self.rows) / len(self.rows),
            largest=largest,
        )
        del base, model, optimizer, trained
        free()
        return found

    def batches(self, variant: Variant, device: torch.device) -> Iterator[dict[str, Any]]:
        """Micro-batches without end: four rows at random, or rows of like length up to a number of tokens."""
        generator = random.Random(0)
        while True:
            order = list(self.rows)
            generator.shuffle(order)
            if variant.plain:
                groups = [order[start : start + 4] for start in range(0, len(order) - 3, 4)]
            else:
                groups = list(within(sorted(order) if not variant.packing else order, variant))
                generator.shuffle(groups)
            for group in groups:
                yield tensors(group, variant, self.shape.vocabulary, device)


def within(order: list[tuple[int, int]], variant: Variant) -> Iterator[list[tuple[int, int]]]:
    """Rows in the order given, as many as fit into the tokens of a micro-batch, padding counted."""
    group: list[tuple[int, int]] = []
    for row in order:
        lengths = [length for length, _ in [*group, row]]
        if group and (sum(lengths) if variant.packing else max(lengths) * len(lengths)) > variant.tokens:
            yield group
            group = []
        group.append(row)


def tensors(group: list[tuple[int, int]], variant: Variant, words: int, device: torch.device) -> dict[str, Any]:
    real = sum(length for length, _ in group)
    if variant.packing:
        ids = torch.randint(1, words, (1, real))
        labels = torch.cat([_labels(length, answer, ids.new_empty(0)) for length, answer in group])[None]
        labels = torch.where(labels == 0, ids, labels)
        positions = torch.cat([torch.arange(length) for length, _ in group])[None]
        given = {"input_ids": ids, "labels": labels, "position_ids": positions}
    else:
        longest = max(length for length, _ in group)
        ids = torch.randint(1, words, (len(group), longest))
        labels = torch.full_like(ids, IGNORED)
        mask = torch.zeros_like(ids)
        for number, (length, answer) in enumerate(group):
            start = 0 if variant.plain else length - answer
            labels[number, start:length] = ids[number, start:length]
            mask[number, :length] = 1
        given = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    return {name: value.to(device) for name, value in given.items()} | {"real": real}


def _labels(length: int, answer: int, like: torch.Tensor) -> torch.Tensor:
    """0 where the token counts, -100 elsewhere; the first token of a packed row is nobody's target."""
    return torch.where(torch.arange(length) < max(length - answer, 1), IGNORED, 0).to(like)


def loss_of(model: Any, batch: dict[str, Any], variant: Variant) -> torch.Tensor:
    """The summed loss: by whole logits (plain), or over the tokens with loss alone, a chunk at a time."""
    given = {name: value for name, value in batch.items() if name not in ("labels", "real")}
    labels = batch["labels"][:, 1:]
    if variant.plain:
        logits = model(**given, use_cache=False).logits[:, :-1].float()
        return nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=IGNORED, reduction="sum"
        )
    base = model.get_base_model()
    wanted = labels != IGNORED
    hidden = base.model(**given, use_cache=False).last_hidden_state[:, :-1][wanted]
    total = hidden.new_zeros((), dtype=torch.float32)
    for part, targets in zip(hidden.split(CHUNK), labels[wanted].split(CHUNK), strict=True):
        total = total + torch.utils.checkpoint.checkpoint(_chunk_loss, base.lm_head, part, targets, use_reentrant=False)
    return total


def _chunk_loss(head: nn.Module, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(head(hidden).float(), targets, reduction="sum")


def random_model(shape: Shape, bits: int, liger: bool = False) -> Any:
    """A Mistral of random weights on the device, quantised layer by layer, so that 16 bits of it never stand whole."""
    from transformers import MistralForCausalLM

    if liger:
        from liger_kernel.transformers import apply_liger_kernel_to_mistral

        apply_liger_kernel_to_mistral(cross_entropy=False, fused_linear_cross_entropy=False)
    device = best_device()
    width = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device("meta"):
        model: Any = MistralForCausalLM(shape.config()).to(width)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and bits != 16 and name != "lm_head":
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, quantised(module, bits, width, device))
    for name, parameter in list(model.named_parameters()):
        if parameter.is_meta:
            parent, _, last = name.rpartition(".")
            ones = parameter.ndim == 1  # the norms
            value = torch.ones if ones else torch.empty
            made = value(parameter.shape, dtype=width, device=device)
            setattr(model.get_submodule(parent), last, nn.Parameter(made if ones else made.normal_(0, 0.02), False))
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(model.config).to(device)  # its buffers are computed, not loaded
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = bits == 4, bits == 8
    return model


def quantised(module: nn.Linear, bits: int, width: torch.dtype, device: torch.device) -> nn.Module:
    """A bitsandbytes layer of the same size and random weights."""
    import bitsandbytes as bnb

    weight = torch.empty(module.weight.shape, dtype=width, device=device).normal_(0, 0.02)
    sizes = (module.in_features, module.out_features)
    if bits == 8:
        layer = bnb.nn.Linear8bitLt(*sizes, bias=False, has_fp16_weights=False)
        layer.weight = bnb.nn.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
        return layer.to(device)
    layer = bnb.nn.Linear4bit(*sizes, bias=False, compute_dtype=width, compress_statistics=True, quant_type="nf4")
    layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4")
    return layer.to(device)


def parameters_of(shape: Shape) -> int:
    """Without the packing that quantisation does."""
    from transformers import MistralForCausalLM

    with torch.device("meta"):
        return sum(p.numel() for p in MistralForCausalLM(shape.config()).parameters())


def planned_gib(shape: Shape, variant: Variant, found: Figures) -> float | None:
    """What the planner says of it, without driver and allocator, as torch's own peak is; None without pydantic."""
    if have("pydantic", "yaml", "sqlglot"):
        return None
    from text2sql.config import ModelSection
    from text2sql.training.planner.memory import Method, MicroBatch, estimate
    from text2sql.training.planner.shape import shape_of_config

    method = Method(
        bits=variant.bits,  # type: ignore[arg-type]
        nested=True,
        width=2 if torch.cuda.is_available() else 4,
        rank=RANK,
        targets=TARGETS,
        dropout=0.0,
        checkpointing=variant.checkpointing,
        attention="sdpa",
        loss="full" if variant.plain else "chunked" if torch.cuda.is_available() else "completion",
        optimizer="adamw_torch",
        cuda=torch.cuda.is_available(),
    )
    rows, length, scored = found.largest
    known = shape_of_config(shape.config(), ModelSection(name="benchmark"), "benchmark")
    return estimate(known, method, MicroBatch(rows, length, scored)).total / 2**30


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
