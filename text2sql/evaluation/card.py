"""The model card: the README.md of a merged model, in the form that the Hugging Face hub reads.

Its YAML front matter follows the hub's model card specification; figures go into `model-index`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from text2sql.config import ModelSection, Settings
from text2sql.evaluation.figures import FIGURES, cell, show_comparison
from text2sql.evaluation.gate import Verdict
from text2sql.evaluation.inert import code_span, fenced, markdown_table, plain
from text2sql.evaluation.summary import fact_rows, figures_by_system, system_title
from text2sql.evaluation.types import Evaluation
from text2sql.training.recipe import public_name

ASSETS = Path(__file__).parents[2] / "assets"
STAND_IN = """\
> **This is a stand-in that proves the path.** Its base is the tiny model that comes with text2sql, trained from scratch
> on generated rows so that the whole pipeline can run on a CPU without a network. It knows nothing but the shapes of
> that generator: do not use it on real questions. Quality comes with a real base model, such as Mistral-7B.
"""
LIMITS = """\
- It was judged on questions like those it was trained on, over schemas that it had not seen. Real databases have more
  tables, more columns that do not matter, and values that the schema does not show: measure on your own before you
  rely on it.
- Execution accuracy compares results on databases filled with made-up values. It can take a wrong query for a right
  one where no database tells them apart, and says nothing about speed.
- The model can answer with SQL that is wrong, slow or harmful, above all when a question or a schema tells it to. Run
  its queries read-only, with a time limit, on data that the asker may see.
- It inherits the limits and the licence of its base model, and the licence of its training data.
"""
# The hub's names of metrics, where it has one.
METRIC_TYPES = {"rouge_l": "rouge"}


def model_card(
    evaluation: Evaluation,
    verdict: Verdict,
    settings: Settings,
    *,
    facts: Mapping[str, object] | None = None,
) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        facts: what else is known of the training, e.g. {"Optimizer steps": 600, "Training rows": 6400}.
    """
    front = yaml.safe_dump(_front_matter(evaluation, settings), sort_keys=False, allow_unicode=True)
    parts = [f"---\n{front}---\n", *_opening(evaluation, verdict, settings)]
    parts += ["## Figures\n", _figures(evaluation), *_gate(verdict)]
    parts += ["## How to load it\n", _how_to_load(settings)]
    parts += ["## Training\n", markdown_table(("Setting", "Value"), _training(settings)), *_facts(facts or {})]
    parts += ["## Limits\n", LIMITS]
    return "\n".join(parts)


def is_stand_in(model: ModelSection) -> bool:
    """Whether the base is one of the tiny models that come with the project."""
    name = Path(model.name)
    return any(ASSETS in place.resolve().parents for place in (name, ASSETS.parent / name) if place.is_dir())


def _front_matter(evaluation: Evaluation, settings: Settings) -> dict[str, object]:
    dataset = _dataset_name(settings)
    tags = ["text2sql", "text-to-sql", "sql", "trl", "peft", "lora"]
    tags += ["qlora"] * (settings.model.quantization_bits < 16) + ["stand-in"] * is_stand_in(settings.model)
    front: dict[str, object] = {
        "language": ["en"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": public_name(settings.model.name),
        "base_model_relation": "finetune",
        "datasets": [dataset],
        "tags": tags,
    }
    if metrics := list(_metrics(evaluation)):
        result = {
            "task": {"type": "text-generation", "name": "Text to SQL"},
            "dataset": {"name": dataset, "type": dataset, "split": "test"},
            "metrics": metrics,
        }
        front["model-index"] = [{"name": settings.name, "results": [result]}]
    return front


def _metrics(evaluation: Evaluation) -> Iterator[dict[str, object]]:
    """The tuned model's figures; one that is no number has no place in an index of results."""
    tuned = evaluation.find("tuned")
    if tuned is None:
        return
    for figure in FIGURES:
        shown = cell(figure, tuned.figures, tuned.intervals)
        if shown.value is not None and figure.better != "neither":
            yield {
                "type": METRIC_TYPES.get(figure.key, figure.key),
                "name": figure.label,
                "value": round(shown.value, 4),
            }


def _dataset_name(settings: Settings) -> str:
    return settings.data.path.name if settings.data.path is not None else settings.data.dataset_name


def _opening(evaluation: Evaluation, verdict: Verdict, settings: Settings) -> Iterator[str]:
    yield f"# {plain(settings.name)}\n"
    yield (
        "Writes one SQL query for a question and the CREATE TABLE statements of its tables. "
        f"A LoRA adapter was trained on {code_span(public_name(settings.model.name))} "
        f"with rows of {code_span(_dataset_name(settings))}, and folded into "
        f"{settings.merge.dtype} weights.\n"
    )
    if is_stand_in(settings.model):
        yield STAND_IN
    yield f"**{verdict.headline}**, on {len(evaluation.rows)} test questions, {evaluation.created}.\n"


def _figures(evaluation: Evaluation) -> str:
    """Every system's, with the comparisons and what the figures mean."""
    compared = [
        f"- {system_title(found.system)} against {system_title(found.other)}: {show_comparison(found)}.\n"
        for found in evaluation.comparisons
    ]
    meanings = [f"- {figure.label}: {figure.meaning}.\n" for figure in FIGURES]
    told = "In brackets stand 95% bootstrap intervals.\n"
    if compared:
        told += (
            "Execution accuracy on the same rows, with McNemar's p-value:\n\n"
            + "".join(compared)
            + "\nOf the figures:\n"
        )
    return f"{figures_by_system(evaluation)}\n{told}\n{''.join(meanings)}"


def _gate(verdict: Verdict) -> Iterator[str]:
    if verdict.rules:
        yield "## Gate\n"
        yield "".join(f"- {'kept' if rule.passed else '**broken**'}: {rule.reason}\n" for rule in verdict.rules)


_PLAIN = 'tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)'
_CHAT = """\
tokenizer.apply_chat_template(
    [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
)"""


def _how_to_load(settings: Settings) -> str:
    code = f"""\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this README lies
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")

template = {settings.data.prompt_template!r}
prompt = template.format(
    context="CREATE TABLE singer (singer_id INTEGER, name TEXT, age INTEGER)",
    question="What are the names of singers older than 30?",
)
inputs = {_CHAT if settings.model.chat_template else _PLAIN}
output = model.generate(**inputs, max_new_tokens={settings.evaluation.max_new_tokens}, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""
    return "The prompt must be written exactly as in training.\n\n" + fenced(code, "python")


def _training(settings: Settings) -> Iterator[tuple[str, str]]:
    model, lora, training = settings.model, settings.lora, settings.training
    rows = training.per_device_train_batch_size * training.gradient_accumulation_steps
    yield "Base model", public_name(model.name) + (f" at {model.revision}" if model.revision else "")
    yield "Base held in", _precision(model)
    yield "LoRA", f"r {lora.r}, alpha {lora.lora_alpha}, dropout {lora.lora_dropout:g}, bias {lora.bias}"
    yield "Adapted layers", ", ".join(lora.target_modules)
    yield "Length", f"{training.max_steps} steps" if training.max_steps else f"{training.num_train_epochs:g} epochs"
    yield (
        "Rows a step",
        f"{rows} ({training.per_device_train_batch_size} × {training.gradient_accumulation_steps}) a device",
    )
    yield (
        "Learning rate",
        f"{training.learning_rate:g}, {training.lr_scheduler_type}, warm-up {training.warmup_ratio:.0%}",
    )
    yield "Optimizer", f"{training.optim}, weight decay {training.weight_decay:g}, norm ≤ {training.max_grad_norm:g}"
    yield "Precision", training.precision
    yield "Longest row", f"{training.max_length} tokens"
    yield "Loss", "on the answer's tokens only"
    yield "Seed", str(training.seed)
    yield "Merged into", f"{settings.merge.base} weights, {settings.merge.dtype}"
    yield "Test rows", f"{settings.data.test_ratio:.0%} of the data, their schemas in no other split"


def _precision(model: ModelSection) -> str:
    if model.quantization_bits == 4:
        nested = ", nested" if model.use_nested_quant else ""
        return f"4 bits ({model.bnb_4bit_quant_type.upper()}{nested}), computing in {model.bnb_4bit_compute_dtype}"
    return "8 bits (LLM.int8())" if model.quantization_bits == 8 else "16 bits"


def _facts(facts: Mapping[str, object]) -> Iterator[str]:
    if facts:
        yield markdown_table(("Fact", "Value"), fact_rows(facts))
