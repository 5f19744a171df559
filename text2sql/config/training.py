"""Settings of the base model, its adapter, the run that trains it, and the merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from text2sql.config.section import Fraction, Name, Section, Seed, Sha256, Size


class ModelSection(Section):
    """The base model, and how it is held in memory while an adapter is trained on it."""

    name: Name = "mistralai/Mistral-7B-v0.1"
    """A model of the Hugging Face hub, or a local folder."""
    revision: str | None = None
    """Commit, tag or branch on the hub. Pin a commit for runs that must repeat."""
    sha256: Sha256 | None = None
    """Checksum of a local folder. Filled in when a run starts; set it, and a folder that differs is refused."""
    quantization_bits: Literal[4, 8, 16] = 4
    """4: NF4 or FP4 by bitsandbytes; 8: LLM.int8() by bitsandbytes (CUDA only); 16: not quantised."""
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """The 4-bit data type; NF4 fits normally distributed weights (Dettmers et al. 2023)."""
    bnb_4bit_compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """What 4-bit weights are de-quantised to for a matrix product; auto follows training.precision."""
    use_nested_quant: bool = True
    """Quantise the quantisation constants too: 0.4 bits less a parameter."""
    dequantize: Literal["auto", "once", "always"] = "auto"
    """4-bit weights become numbers in each pass, or once (a copy in memory); auto: once on a CPU with room for it."""
    chat_template: bool = False
    """A chat model: prompts are a user's turn in its tokenizer's own template, and answers end as that ends a turn."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Leave it off."""


class LoraSection(Section):
    """The trainable low-rank matrices: W' = W + (alpha / r) · B @ A (Hu et al. 2021)."""

    r: PositiveInt = 16
    """Rank. More is more capacity and more memory; 8 to 64 is usual."""
    lora_alpha: PositiveInt = 32
    """Scale; the rule of thumb is 2 · r."""
    lora_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    """Share of the adapter's inputs dropped while training."""
    target_modules: Annotated[tuple[Name, ...], Field(min_length=1)] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """The linear layers that get an adapter, by the last part of their names."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases train along. `none` keeps the base unchanged when the adapter is off."""


class TrainingSection(Section):
    """The fine-tuning run, in the words of transformers.TrainingArguments where it has them."""

    num_train_epochs: Annotated[float, Field(gt=0)] = 3
    """Passes over the training rows."""
    max_steps: PositiveInt | None = None
    """Optimizer steps; overrides num_train_epochs."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Peak learning rate."""
    per_device_train_batch_size: PositiveInt = 4
    """Rows a device a forward pass."""
    per_device_eval_batch_size: PositiveInt = 8
    """Rows a device when the validation loss is taken."""
    gradient_accumulation_steps: PositiveInt = 4
    """Forward passes an optimizer step."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.001
    """Decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 0.3
    """Gradients are clipped to this norm."""
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """How the learning rate falls from its peak."""
    warmup_ratio: Fraction = 0.03
    """Share of the steps over which the learning rate rises to its peak."""
    max_length: PositiveInt = 512
    """Tokens a row, prompt and completion; longer rows are left out of training and counted."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto: bf16 where the device is good at it, else fp16 on CUDA and fp32 on the CPU."""
    gradient_checkpointing: Literal["auto", True, False] = "auto"
    """Recompute activations in the backward pass, a third slower in much less memory; auto: where they do not fit."""
    micro_batch_tokens: PositiveInt | None = None
    """Batches of more tokens, padding included, are taken in parts; null: 1,024 on a CPU, no limit elsewhere."""
    packing: bool = False
    """Put several rows into one sequence, kept apart by position ids; pays on GPUs with FlashAttention 2."""
    group_by_length: bool = True
    """Batch rows of like length, which saves padding."""
    use_liger_kernel: bool = False
    """Liger's kernels for norms and feed-forward parts; CUDA only, and the package liger-kernel must be installed."""
    optim: str = "auto"
    """auto: paged_adamw_32bit on CUDA, adamw_torch_fused elsewhere; muon; or any name that transformers knows."""
    logging_steps: PositiveInt = 10
    """Optimizer steps between two points of the loss curve."""
    eval_steps: PositiveInt = 100
    """Optimizer steps between two validation losses."""
    save_steps: PositiveInt = 100
    """Optimizer steps between two checkpoints: what a killed run loses at most."""
    save_total_limit: PositiveInt = 2
    """Checkpoints kept."""
    processes: PositiveInt | None = None
    """Processes that share each step on a machine; null: one a GPU."""
    checkpoint_dir: Path = Path(".checkpoints")
    """Where checkpoints live until the run is done; a persistent volume in a cluster."""
    seed: Seed = 42
    """Seed of initialisation, order and dropout."""


class MergeSection(Section):
    """Folding the adapter into a 16-bit base, and the proof that the result answers alike."""

    base: Literal["dequantized", "original"] = "dequantized"
    """dequantized: the weights the adapter was trained on (peft#2105); original: the published 16-bit weights."""
    dtype: Literal["bfloat16", "float16"] = "bfloat16"
    """Data type of the merged weights."""
    parity_rows: PositiveInt = 64
    """Validation rows that the adapter on its base and the merged model both answer."""
    min_agreement: Fraction = 0.9
    """Share of these answers that must be the same, token for token, or the run fails."""
    max_shard_size: Size = "5GB"
    """Largest safetensors file."""


class WandbSection(Section):
    """Weights & Biases; WANDB_MODE=offline keeps a run on disk."""

    enabled: bool = False
    """Send loss, learning rate and memory to W&B as well as to ZenML."""
    project: str = "text2sql"
    """W&B project."""
    run_name: str | None = None
    """W&B run; the ZenML run's name when empty."""
