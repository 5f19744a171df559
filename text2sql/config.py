"""Every setting: one frozen class a YAML section; the text under a field is its help.

The defaults are those of configs/mistral_7b.yaml; text2sql/config_file.py reads such files.
"""

from __future__ import annotations

import ipaddress
import string
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Name = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Size = Annotated[str, Field(pattern=r"^\d+(\.\d+)?(KB|MB|GB|TB)$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

SLICE_DIMENSIONS = ("hardness", "construct", "tables", "source")
"""What test rows are grouped by (text2sql.evaluation.slices)."""

DEFAULT_PROMPT = """\
### Task
Answer the question with one SQL query over the tables below.

### Schema
{context}

### Question
{question}

### SQL
"""


class Section(BaseModel):
    """Frozen, strict about unknown keys, and documented by the text under each field."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        """`batch_size: yes` is a slip, which pydantic would read as 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"{'true' if value else 'false'} does not fit here")
        return value


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
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: about a third slower, several times less memory."""
    micro_batch_tokens: PositiveInt | None = None
    """Batches of more tokens, padding included, are taken in parts; null: 1,024 on a CPU, no limit elsewhere."""
    packing: bool = False
    """Put several rows into one sequence, kept apart by position ids; pays on GPUs with FlashAttention 2."""
    group_by_length: bool = True
    """Batch rows of like length, which saves padding."""
    optim: str = "auto"
    """auto: paged_adamw_32bit on CUDA, adamw_torch_fused elsewhere; or any name that transformers knows."""
    logging_steps: PositiveInt = 10
    """Optimizer steps between two points of the loss curve."""
    eval_steps: PositiveInt = 100
    """Optimizer steps between two validation losses."""
    save_steps: PositiveInt = 100
    """Optimizer steps between two checkpoints: what a killed run loses at most."""
    save_total_limit: PositiveInt = 2
    """Checkpoints kept."""
    processes: PositiveInt | None = None
    """Processes that share each step on this machine; null: one a GPU."""
    checkpoint_dir: Path = Path(".checkpoints")
    """Where checkpoints live until the run is done; a persistent volume in a cluster."""
    seed: Seed = 42
    """Seed of initialisation, order and dropout."""


class SyntheticSection(Section):
    """The built-in generator of question / CREATE TABLE / SQL rows (data.dataset_name: synthetic)."""

    rows: PositiveInt = 8000
    """How many rows."""
    seed: Seed = 0
    """The same seed and size give the same rows."""
    profile: Literal["full", "base"] = "full"
    """full: every phrasing and construct; base: the part that the embedded base model was trained on."""


class RealisticSection(Section):
    """What contexts get that have no more in them than their answer uses; nothing by default."""

    distractor_columns: NonNegativeInt = 0
    """At most this many columns a table, from other rows of the split, never one that could be meant."""
    distractor_tables: NonNegativeInt = 0
    """At most this many tables, likewise."""
    keys: bool = False
    """PRIMARY KEY for columns that name their table, FOREIGN KEY for those that name another."""
    types: bool = False
    """Types by name for columns that the answer does not use."""
    shuffle: bool = False
    """Tables, and columns in them, in any order."""

    @property
    def changes(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.distractor_columns or self.distractor_tables or self.keys or self.types or self.shuffle)


class DataSection(Section):
    """The rows: where they come from, how they are split, and how a prompt is written."""

    dataset_name: Name = "b-mc2/sql-create-context"
    """A data set of the Hugging Face hub, or `synthetic` for the built-in generator."""
    dataset_revision: str | None = None
    """Commit, tag or branch on the hub."""
    path: Path | None = None
    """A local .json, .jsonl, .csv or .parquet file; takes the place of dataset_name."""
    sha256: Sha256 | None = None
    """Checksum of the local file. Filled in when a run starts; set it, and a file that differs is refused."""
    synthetic: SyntheticSection = SyntheticSection()
    """Size and seed of the built-in generator."""
    question_column: Name = "question"
    """Column with the question in plain language."""
    context_column: Name = "context"
    """Column with the CREATE TABLE statements."""
    answer_column: Name = "answer"
    """Column with the gold SQL."""
    subset_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Share of the rows to use, drawn by seed."""
    train_ratio: Fraction = 0.8
    """Share of rows for training."""
    val_ratio: Fraction = 0.1
    """Share of rows for the validation loss."""
    test_ratio: Fraction = 0.1
    """Share of rows, with schemas of their own, that only the evaluation sees."""
    split: Literal["schema", "random"] = "schema"
    """schema: no schema in two splits; random: every row for itself, so that tests leak."""
    schema_overlap: Annotated[float, Field(gt=0, le=1)] | None = 0.75
    """Share of the smaller table's columns that make two tables of one name the same schema; null: all of both."""
    databases: Path | None = None
    """Folder of SQLite files that rows name in a column `database`: these rows are checked and judged on their own."""
    databases_sha256: Sha256 | None = None
    """Checksum of that folder, as sha256 is of the local file."""
    benchmark: Path | None = None
    """A file with questions (same column name) that are kept out of all splits: an external test set."""
    benchmark_sha256: Sha256 | None = None
    """Checksum of the benchmark, as sha256 is of the local file."""
    seed: Seed = 42
    """Seed of the subset and of the split."""
    query_timeout: Annotated[float, Field(gt=0)] = 2.0
    """Seconds a gold query may run on its own schema before its row is set aside."""
    repair: bool = True
    """Mend rows where one meaning is possible, and read double-quoted text strictly; rows as they are without it."""
    max_rejected: Fraction = 0.15
    """Share of rows that may be beyond repair; with more of them validation fails."""
    realistic: RealisticSection = RealisticSection()
    """Schemas made as rich as real ones."""
    prompt_template: str = DEFAULT_PROMPT
    """The prompt, with {context} and {question} in it; schema first lets servers cache the prefix."""

    @model_validator(mode="after")
    def _ratios_sum_to_one(self) -> Self:
        total = self.train_ratio + self.val_ratio + self.test_ratio
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"train_ratio + val_ratio + test_ratio must be 1, and is {total:g}")
        if not self.train_ratio or not self.test_ratio:
            raise ValueError("train_ratio and test_ratio must be above 0: a model is trained, and then judged")
        return self

    @model_validator(mode="after")
    def _template_has_its_fields(self) -> Self:
        try:
            fields = {name for _, name, _, _ in string.Formatter().parse(self.prompt_template) if name is not None}
        except ValueError as error:
            raise ValueError(f"prompt_template is no format string ({error}); write {{{{ for a brace") from error
        if fields != {"context", "question"}:
            raise ValueError(
                f"prompt_template must hold {{context}} and {{question}} and no other field, and holds {sorted(fields)}"
            )
        return self


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


class EvaluationSection(Section):
    """How base and tuned model are judged on the frozen test rows."""

    max_rows: PositiveInt | None = None
    """Judge at most this many test rows, drawn by data.seed; all when empty."""
    batch_size: PositiveInt = 16
    """Prompts that are answered together."""
    max_new_tokens: PositiveInt = 256
    """Longest answer in tokens."""
    databases: PositiveInt = 5
    """SQLite databases filled for each row; an answer must match the gold's result on all of them."""
    query_timeout: Annotated[float, Field(gt=0)] = 2.0
    """Seconds a query may run."""
    few_shot: NonNegativeInt = 3
    """Training rows shown to the base model in a second try, its fair chance; 0 leaves that out."""
    resamples: PositiveInt = 1000
    """Bootstrap resamples behind every 95% interval."""
    report_examples: PositiveInt = 50
    """Example predictions in the report."""


class Threshold(Section):
    """Bounds for one figure."""

    min: float | None = None
    """The figure must be at least this."""
    max: float | None = None
    """The figure must be at most this."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: nothing can pass")
        return self


class Beats(Section):
    """When one model counts as better than another, by execution accuracy on the same rows."""

    significance: Annotated[float, Field(gt=0.0, lt=0.5)] | None = None
    """The difference must be above 0, and the p-value of McNemar's exact test (two-sided) below this."""
    margin: Fraction | None = None
    """No worse by more than this: the 95% interval of the difference must end above -margin."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.significance is None) == (self.margin is None):
            raise ValueError("give significance (must be better) or margin (must not be worse), one of them")
        return self


class Thresholds(Section):
    """Bounds for the figures of an evaluation."""

    execution_accuracy: Threshold | None = None
    """Share of answers with the gold's result on every database of the row."""
    exact_match: Threshold | None = None
    """Share of answers equal to the gold after normalisation."""
    exact_match_without_values: Threshold | None = None
    """Share of answers equal to the gold but for literals."""
    valid_sql: Threshold | None = None
    """Share of answers that parse and run on their schema."""
    schema_adherence: Threshold | None = None
    """Share of answers that invent no table and no column."""
    perplexity: Threshold | None = None
    """exp(mean loss) over the gold's tokens."""
    rouge_l: Threshold | None = None
    """ROUGE-L F1 of the text, 0 to 1."""
    bleu: Threshold | None = None
    """Corpus BLEU of the text, 0 to 100."""

    @model_validator(mode="after")
    def _bounds_within_reach(self) -> Self:
        for name in Thresholds.model_fields:
            if name in ("perplexity", "bleu"):
                continue
            bounds: Threshold | None = getattr(self, name)
            for bound in (bounds.min, bounds.max) if bounds else ():
                if bound is not None and not 0 <= bound <= 1:
                    raise ValueError(f"{name} is a share from 0 to 1, and its bound is {bound:g}")
        return self


class GateSection(Thresholds):
    """What a tuned model must reach before it is staged, and a staged one before it goes live."""

    execution_accuracy: Threshold | None = Threshold(min=0.5)
    """Share of answers with the gold's result on every database of the row."""
    beats_base: Beats | None = Beats(significance=0.05)
    """Against the base model, with the plain and with the few-shot prompt."""
    beats_champion: Beats | None = Beats(margin=0.02)
    """Against the model in stage production; kept where there is none."""
    max_vacuous: Fraction | None = 0.2
    """Share of test rows whose databases cannot tell right from wrong."""
    slices: dict[Name, Thresholds] = {}
    """Bounds by slice, e.g. {"hardness:extra": {execution_accuracy: {min: 0.4}}}; one without rows breaks its rules."""

    @field_validator("beats_base", "beats_champion", mode="before")
    @classmethod
    def _yes_or_no(cls, value: object, info: ValidationInfo) -> object:
        """true asks for the default, false for nothing."""
        if value is True:
            return cls.model_fields[str(info.field_name)].default
        return None if value is False else value

    @field_validator("slices")
    @classmethod
    def _slices_are_named(cls, slices: dict[str, Thresholds]) -> dict[str, Thresholds]:
        for name in slices:
            dimension, colon, value = name.partition(":")
            if not (colon and value) or dimension not in SLICE_DIMENSIONS:
                known = ", ".join(SLICE_DIMENSIONS)
                raise ValueError(f"{name!r} is no slice; write dimension:value, with a dimension of: {known}")
        return slices


class WandbSection(Section):
    """Weights & Biases; WANDB_MODE=offline keeps a run on disk."""

    enabled: bool = False
    """Send loss, learning rate and memory to W&B as well as to ZenML."""
    project: str = "text2sql"
    """W&B project."""
    run_name: str | None = None
    """W&B run; the ZenML run's name when empty."""


class KubernetesSection(Section):
    """The cluster in which a judged model goes live."""

    context: str | None = None
    """Context of the kubeconfig; empty: in a pod its own account, elsewhere the kubeconfig's current context."""
    namespace: Name = "text2sql"
    """Where the server runs; an administrator makes it."""
    manifests: Path = Path("k8s/overlays/gpu-single")
    """How the server looks: a kustomize folder, or a file that was rendered from one."""
    store: str | None = None
    """Where released models are kept for pods, s3://bucket/models; empty: they fetch from ZenML's artifact store."""
    address: str | None = None
    """What clients use, https://text2sql.example.com; empty: the Service's name in the cluster."""
    reach: Literal["auto", "cluster", "api"] = "auto"
    """How the new server is asked: by the Service's name (cluster) or through the API server; auto: what fits here."""
    take_over: bool = False
    """Take fields of Deployment and Service over from whoever else manages them."""


class DeploySection(Section):
    """Where a judged model goes live, and what it must show first."""

    target: Literal["local", "kubernetes"] = "local"
    """local: this machine, as host, port, engine, api_keys, keep_previous and server say; or a Kubernetes cluster."""
    kubernetes: KubernetesSection = KubernetesSection()
    """The cluster."""
    host: Name = "127.0.0.1"
    """Address that clients use; another than loopback needs api_keys."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port that clients use; it stays the same over every deployment."""
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """auto: vLLM where `make vllm` has set up its environment, else Transformers."""
    api_keys: Path | None = None
    """File of keys made by `python -m text2sql key`; deploying then needs one of them in OPENAI_API_KEY."""
    startup_seconds: Annotated[float, Field(gt=0)] = 600.0
    """A new server that is not ready after this long does not go live; one that hangs for so long is started again."""
    check_seconds: Annotated[float, Field(gt=0)] = 300.0
    """In this time it must have answered every question it is asked before it goes live."""
    parity_rows: PositiveInt = 32
    """Test rows whose answers are compared with those of the evaluated model."""
    min_agreement: Fraction = 0.9
    """Share of these answers that must be the same; evaluation and server may round differently (bf16)."""
    drain_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Time that requests under way have to finish on the old server."""
    keep_previous: Literal["stopped", "running"] = "stopped"
    """running: a rollback is instant, and two models fill the memory."""
    server: dict[Name, str | int | float | bool] = {}
    """More settings of the server (docs/serving.md), e.g. {batch_size: 32, database: shop.sqlite}."""

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class Settings(Section):
    """All of it: what a run trains, on what, and what it must reach."""

    name: Name = "text2sql-mistral-7b"
    """The ZenML Model under which every run adds a version."""
    output_dir: Path = Path("results")
    """Where adapter, merged model, figures and report are left."""
    model: ModelSection = ModelSection()
    lora: LoraSection = LoraSection()
    training: TrainingSection = TrainingSection()
    data: DataSection = DataSection()
    merge: MergeSection = MergeSection()
    evaluation: EvaluationSection = EvaluationSection()
    gate: GateSection = GateSection()
    wandb: WandbSection = WandbSection()
    deploy: DeploySection = DeploySection()

    def contradictions(self) -> list[str]:
        """What each section allows alone and two of them exclude together, a line each."""
        found: list[str] = []
        if self.evaluation.max_new_tokens >= self.training.max_length:
            found.append(
                f"evaluation.max_new_tokens ({self.evaluation.max_new_tokens}) must be below training.max_length "
                f"({self.training.max_length}): an answer and its prompt share that length"
            )
        wanted = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(self.training.precision)
        if self.model.quantization_bits == 4 and wanted and self.model.bnb_4bit_compute_dtype not in ("auto", wanted):
            found.append(
                f"model.bnb_4bit_compute_dtype {self.model.bnb_4bit_compute_dtype} contradicts training.precision "
                f"{self.training.precision}; set the former to auto"
            )
        if self.deploy.target == "kubernetes" and self.deploy.keep_previous == "running":
            found.append(
                "deploy.keep_previous running is for deploy.target local; a cluster starts the previous release again"
            )
        if not self.deploy.on_loopback and self.deploy.api_keys is None:
            found.append(
                f"deploy.host {self.deploy.host} can be reached from elsewhere, and there are no keys: make one with "
                "`python -m text2sql key NAME --file keys.txt` and set deploy.api_keys=keys.txt"
            )
        return found

    def keep(self, *sections: str, reset: Collection[str] = ()) -> Settings:
        """These settings with every section not named, and every `section.key` of `reset`, at its defaults.

        A step gets only what it depends on, so that a changed gate does not throw a finished training away.
        """
        kept = {name: getattr(self, name) for name in sections}
        for section, key in (name.split(".") for name in reset):
            default = type(kept[section]).model_fields[key].get_default()
            kept[section] = kept[section].model_copy(update={key: default})
        return Settings.model_construct(**kept)
