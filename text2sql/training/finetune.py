"""QLoRA: train low-rank adapters on a quantised base, with loss on the SQL and its end token only."""

from __future__ import annotations

import contextlib
import difflib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from text2sql.config import LoraSection, Settings, TrainingSection
from text2sql.data.batches import read_batches
from text2sql.data.files import new_folder
from text2sql.errors import TrainingError, TrainingInterrupted
from text2sql.progress import working
from text2sql.training.activations import choose_activations
from text2sql.training.arguments import MUON, choose_optimizer, describe, muon, trainer_arguments
from text2sql.training.callbacks import ProgressCallback, RunCallback, SpeedCallback, history, tell
from text2sql.training.checkpoints import CheckpointStore, StopRequest, fingerprint, trained_steps, writing
from text2sql.training.distributed import first_alone, is_first, join, processes, share_of_step
from text2sql.training.frozen import dequantize_once, fold_adapters
from text2sql.training.liger import check_liger, use_liger
from text2sql.training.model import fetch, load_base, load_tokenizer, quiet, training_device
from text2sql.training.packing import check_packing
from text2sql.training.tokens import SUFFIX, tokenize
from text2sql.training.trainer import CPU_TOKENS, AdapterTrainer, EpochSampler, save_adapter, with_blank


@dataclass(frozen=True)
class TrainedAdapter:
    """Where the adapter is, and how its training went."""

    path: Path
    history: list[dict[str, float]]
    """One entry a logged step: step, loss, eval_loss, learning_rate, grad_norm, tokens, tokens_per_second."""
    steps: int
    seconds: float
    """Of this process; a resumed run's earlier part is not in it."""
    trainable_parameters: int
    total_parameters: int
    """Of base and adapter."""
    peak_memory_gib: float | None
    """Of the GPU; None without one."""
    resumed_from: int | None
    """The step of the checkpoint that this run began with."""
    left_out: int
    """Training rows longer than training.max_length."""


def finetune(
    splits: DatasetDict,
    settings: Settings,
    report_metrics: Callable[[dict[str, float]], None] | None = None,
    output: Path | None = None,
) -> TrainedAdapter:
    """Fine-tune on `splits["train"]` (columns `prompt`, `completion`), watching the loss on `splits["validation"]`.

    The adapter is written to `output`, or to a folder under training.checkpoint_dir; the run's checkpoints are deleted
    once it is there. `report_metrics` gets the figures of every log entry as it appears.

    Raises:
        TrainingError: nothing to train on or with, or the loss diverged.
        TrainingInterrupted: SIGTERM came; a checkpoint is saved, and the same call goes on from it.
        ModelError: the base cannot be loaded.
        OutputError: the disk is full.
    """
    started = time.perf_counter()
    join()
    training = settings.training
    optimizer = choose_optimizer(training.optim, torch.cuda.is_available())
    if training.use_liger_kernel:
        check_liger(torch.cuda.is_available())
    tokenizer = load_tokenizer(settings.model)
    store = CheckpointStore(training.checkpoint_dir / fingerprint_of(splits, settings), training.save_total_limit)
    with first_alone():
        train, left_out = tokenize(splits["train"], tokenizer, training.max_length, store.folder / f"train{SUFFIX}")
    if len(train) == 0:
        store.clear()
        raise TrainingError(
            f"no training row is left: all {left_out} have more than training.max_length = {training.max_length} "
            "tokens; raise training.max_length"
            if left_out
            else "no training row is left: the train split is empty; check the data section"
        )
    if left_out:
        tell(
            f"WARNING: {left_out} of {len(train) + left_out} training rows have more than training.max_length = "
            f"{training.max_length} tokens and are left out"
        )
    validation = _validation_rows(splits, tokenizer, training)
    if is_first():  # the others wait for the files' locks
        fetch(settings.model.name, settings.model.revision)
    with working(f"loading {settings.model.name}") if is_first() else contextlib.nullcontext():
        base = load_base(settings.model, training, tokenizer)
    copied = dequantize_once(base, settings.model, base.dtype)
    if training.use_liger_kernel:
        use_liger(base)
    with store.locked() if is_first() else contextlib.nullcontext(), StopRequest() as stop, quiet():
        model = with_adapter(base, settings.lora, training)
        attention = str(base.config._attn_implementation)  # noqa: SLF001
        activations = choose_activations(settings, train, tokens_a_pass(training), copied > 0, attention)
        if training.packing:
            check_packing(model, sorted(train["input_ids"][:8], key=len)[:2])
        trainer = build_trainer(
            model, tokenizer, train, validation, settings, optimizer, activations.again, store, stop, report_metrics
        )
        tell(describe(trainer, settings, copied, str(activations)))
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with _tracking(settings):
            resumed_from = _train(trainer, store, stop)
        path = output or store.folder / "adapter"
        with first_alone():
            if is_first():
                _write(trainer, tokenizer, path)
                store.clear()
    return TrainedAdapter(
        path=path,
        history=history(trainer.state.log_history),
        steps=trainer.state.global_step,
        seconds=time.perf_counter() - started,
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        total_parameters=int(model.get_base_model().num_parameters()),
        peak_memory_gib=torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None,
        resumed_from=resumed_from,
        left_out=left_out,
    )


def _validation_rows(
    splits: DatasetDict, tokenizer: PreTrainedTokenizerBase, training: TrainingSection
) -> Dataset | None:
    """Validation rows sorted by length, at most a quarter of the rows trained on between two validation losses.

    A forward pass costs a third of a training step, so this bounds the cost to about a twelfth of the training.
    """
    if "validation" not in splits or len(splits["validation"]) == 0:
        return None
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
    limit = max(64, training.eval_steps * batch // 4)
    rows = splits["validation"]
    if len(rows) > limit:
        rows = rows.select([i * len(rows) // limit for i in range(limit)])
    encoded, _ = tokenize(rows, tokenizer, training.max_length)
    by_length = sorted(range(len(encoded)), key=encoded["length"][:].__getitem__)
    return encoded.select(by_length) if by_length else None


def fingerprint_of(splits: DatasetDict, settings: Settings) -> str:
    """Of a training: equal where a checkpoint of the one would do for the other."""
    return fingerprint(settings, (row for name in ("train", "validation") for row in _texts(splits, name)))


def _texts(splits: DatasetDict, name: str) -> Iterator[dict[str, str]]:
    if name in splits and len(splits[name]):
        for batch in read_batches(splits[name], ("prompt", "completion")):
            for prompt, completion in zip(batch["prompt"], batch["completion"], strict=True):
                yield {"prompt": prompt, "completion": completion}


def with_adapter(model: PreTrainedModel, lora: LoraSection, training: TrainingSection) -> Any:
    """The base, frozen, with trainable LoRA matrices (fp32) beside the chosen linear layers.

    peft's prepare_model_for_kbit_training is not used: it would widen the embeddings to fp32 and turn gradient
    checkpointing on, while autocast and Mistral's own norms already compute in fp32 what needs it.

    Raises:
        TrainingError: a target module that the model does not have, or nothing to train.
    """
    layers = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    layers -= {"lm_head"}  # TRL takes the loss from lm_head.weight directly, past an adapter
    missing = [name for name in lora.target_modules if name not in layers]
    if missing or not lora.target_modules:
        near = sorted({match for name in missing for match in difflib.get_close_matches(name, sorted(layers), n=2)})
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise TrainingError(
            f"lora.target_modules {missing} match no layer of {type(model).__name__}; {hint}"
            f"its layers are {', '.join(sorted(layers))}"
        )
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=list(lora.target_modules),
        bias=lora.bias,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(training.seed)
    adapted = get_peft_model(model, config)
    if not any(parameter.requires_grad for parameter in adapted.parameters()):
        raise TrainingError("the adapter has no trainable parameters; check the lora section")
    return adapted


def build_trainer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    validation: Dataset | None,
    settings: Settings,
    optimizer: str,
    checkpointing: bool,
    store: CheckpointStore,
    stop: StopRequest,
    report: Callable[[dict[str, float]], None] | None,
) -> AdapterTrainer:
    """The trainer over tokenised rows."""
    training = settings.training
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
    sampler = None
    if not training.packing:
        at_once = share_of_step(training, processes())[0] * processes() if processes() > 1 else 1
        sampler = EpochSampler(train["length"][:], batch, training.seed, training.group_by_length, at_once)
        train = with_blank(train, int(tokenizer.pad_token_id)) if sampler.blanks else train
    speed, progress = SpeedCallback(), ProgressCallback()
    trainer = AdapterTrainer(
        model=model,
        args=trainer_arguments(settings, optimizer, checkpointing, store.folder, validation is not None),
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        optimizer_cls_and_kwargs=muon(training) if optimizer == MUON else None,
        store=store,
        sampler=sampler,
        tokens=tokens_a_pass(training),
    )
    fold_adapters(model)
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    handler = trainer.callback_handler
    handler.callbacks.insert(1, speed)  # after DefaultFlowCallback, before those that pass logs on
    handler.callbacks += [progress, RunCallback(stop, sampler, report)]
    return trainer


def tokens_a_pass(training: TrainingSection) -> int | None:
    """Tokens at which a batch is taken in parts, if it is."""
    return training.micro_batch_tokens or (CPU_TOKENS if training_device().type == "cpu" else None)


def _train(trainer: AdapterTrainer, store: CheckpointStore, stop: StopRequest) -> int | None:
    """Train to the end, from the last complete checkpoint if there is one; returns its step."""
    with first_alone():  # it deletes what is incomplete
        checkpoint = store.last_complete()
    resumed_from, planned = trained_steps(checkpoint) if checkpoint is not None else (None, None)
    if checkpoint is not None:
        tell(f"resuming from {checkpoint} at step {resumed_from} of {planned}")
    if checkpoint is not None and resumed_from == planned:  # killed after the last step: train() would take one more
        trainer.restore(checkpoint)
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.asked and trainer.state.global_step < trainer.state.max_steps:
        raise TrainingInterrupted(
            f"stopped by SIGTERM at step {trainer.state.global_step} of {trainer.state.max_steps}; a checkpoint is in "
            f"{store.folder}, and the same command goes on from there"
        )
    if trainer.eval_dataset is not None and "eval_loss" not in (history(trainer.state.log_history) or [{}])[-1]:
        trainer.evaluate()
    return resumed_from


def _write(trainer: AdapterTrainer, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Adapter and tokenizer, under a temporary name first: `path` is whole or not there."""
    with writing(path), new_folder(path.absolute().parent) as draft:
        save_adapter(trainer.model, draft)
        tokenizer.save_pretrained(str(draft))
        shutil.rmtree(path, ignore_errors=True)
        draft.rename(path)


@contextlib.contextmanager
def _tracking(settings: Settings) -> Iterator[None]:
    """A W&B run around the training, if enabled; one that the caller has open is used and left open."""
    if not settings.wandb.enabled:
        yield
        return
    import wandb

    ours = wandb.run is None
    if ours:
        config = settings.model_dump(mode="json", include={"model", "lora", "training"})
        try:
            wandb.init(project=settings.wandb.project, name=settings.wandb.run_name, config=config)
        except wandb.errors.Error as error:
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(
                f"W&B cannot start ({reason}); run `wandb login`, set WANDB_MODE=offline, or wandb.enabled to false"
            ) from error
    try:
        yield
    finally:
        if ours:
            wandb.finish()
