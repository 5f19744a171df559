"""Start a pipeline and get its artifacts back; what goes wrong on the way reaches the user as one line."""

from __future__ import annotations

import errno
import importlib
import logging
import re
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pipelines import PIPELINES
from pipelines.versions import find_version
from stacks.place import Place, active, server_lost, sources_from_here
from steps.reconcile import PROCESS, this_process
from text2sql.config import Settings
from text2sql.errors import OutputError, StackError, Text2SQLError, TrainingError
from text2sql.hub import COMMIT
from text2sql.progress import working
from text2sql.results import explain
from text2sql.training.recipe import public_name

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
REFUSALS = ("PipelineSubmissionError", "StackValidationError")
"""ZenML's errors about a stack and its cluster; ZenML is not imported for their names."""
INTERRUPTED = "RunInterruptedException"
"""What ZenML makes of Ctrl-C in a process that was started to ignore it, as a script's jobs in the background are."""
KILLED_EXIT = 143
"""128 + SIGTERM, as shells report it."""


@dataclass(frozen=True)
class Finished:
    """A finished run: its name, how each step came about, and its artifacts."""

    name: str
    steps: dict[str, str]
    """"cached", or seconds as text, by step."""
    run: Any
    model_version: str
    """Name and number."""
    stage: str | None

    def load(self, step: str, output: str) -> Any:
        """One artifact: of this run, of one whose result was used again, or of the run that trained this version."""
        if step in self.steps:
            return self.run.steps[step].outputs[output][0].load()
        return self.run.model_version.get_artifact(output).load()


def launch(pipeline: str, settings: Settings, place: Place, cache: bool, model_version: str | None = None) -> Finished:
    """Run a pipeline to its end.

    Args:
        model_version: number or stage, for a pipeline that is about a version that is there already.

    Raises:
        Text2SQLError: a step says what the user can do; the original exception, not ZenML's wrapping.
    """
    entry = PIPELINES[pipeline]
    with active(place):
        version = find_version(settings.name, model_version, entry.reads, entry.gated) if entry.of_version else None
        run = _start(pipeline, settings, place, cache=cache, version=version)
    if run is None or not run.status.is_finished:
        raise TrainingError(f"stack {place.stack} runs {pipeline} without waiting for it; see its ZenML dashboard")
    if run.status.is_failed:  # elsewhere: what fails in this process has raised
        failed = ", ".join(name for name, step in run.steps.items() if step.status.is_failed) or "no step"
        raise TrainingError(
            f"run {run.name} failed on stack {place.stack} in {failed}; its log is in ZenML's dashboard"
        )
    return _finished(run)


def hand_over(pipeline: str, settings: Settings, place: Place, schedule: Any, cache: bool = True) -> None:
    """Give a pipeline to the orchestrator, with a ZenML schedule by which it starts runs.

    Args:
        cache: without, each of them runs every step, also where nothing is new.

    Raises:
        StackError: it does not take it.
    """
    _start(pipeline, settings, place, schedule=schedule, cache=cache)


def _start(pipeline: str, settings: Settings, place: Place, **options: Any) -> Any:
    """Call the pipeline, and turn what goes wrong into what a user can act on."""
    entry = PIPELINES[pipeline]
    with sources_from_here(), _no_unused_imports(), _tracebacks_of_bugs_only(), _sigterm_ends_the_run():
        with working(f"loading the {pipeline} pipeline"):
            definition = getattr(importlib.import_module(entry.module), entry.function)
        try:
            return configure(definition, entry.steps, settings, place, **options)(settings)
        except Exception as error:
            raise understandable(error) from error


def understandable(error: BaseException) -> BaseException:
    """The error that a user can act on, from anywhere in a chain of causes; else the error as it is: a bug."""
    seen = _chain(error)
    for cause in seen:
        if isinstance(cause, Text2SQLError):
            return cause
    if any(type(cause).__name__ == INTERRUPTED for cause in seen):
        return KeyboardInterrupt()
    for cause in seen:
        if lost := server_lost(cause):
            return lost
        if isinstance(cause, OSError) and cause.errno in FULL:
            return explain(cause, cause.filename or "an artifact")
        if isinstance(cause, sqlite3.OperationalError) and "full" in str(cause):
            return OutputError(
                "cannot write to ZenML's local store: the disk is full; free some space (`zenml status` shows where), "
                "and repeat the command: finished steps are kept"
            )
        if type(cause).__name__ in REFUSALS or str(type(cause).__module__).startswith(("kubernetes.", "urllib3.")):
            return StackError(f"the cluster does not take the pipeline: {' '.join(str(cause).split())[:400]}")
        if type(cause).__name__ == "OutOfMemoryError":  # torch's; torch is not imported for its name
            return TrainingError(
                "the GPU's memory ran out; lower training.per_device_train_batch_size (and raise "
                "gradient_accumulation_steps) or evaluation.batch_size, or set training.gradient_checkpointing to true"
            )
    return error


def _chain(error: BaseException) -> list[BaseException]:
    """It and its causes, each once."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        current = current.__cause__ or current.__context__
    return seen


def configure(
    definition: Any,
    names: tuple[str, ...],
    settings: Settings,
    place: Place,
    cache: bool = True,
    version: int | None = None,
    schedule: Any = None,
) -> Any:
    """The pipeline with its run name, model, tags, and what the stack gives its steps."""
    from zenml import Model
    from zenml.enums import ExecutionMode

    model = Model(
        name=settings.name,
        version=version,
        description=f"Text-to-SQL, tuned from {settings.model.name}",
        tags=["text2sql"],
    )
    place.check(names, settings)
    steps = {name: place.step_options(name) for name in names}
    if looks_first := names[0] == "detect_changes":  # where nothing is new, it leaves no empty version
        steps |= {name: {**steps[name], "model": model} for name in names[1:]}
    subject = f"version-{version}" if version is not None else f"{_rows(settings)}-r{settings.lora.r}"
    about = [f"data:{_rows(settings)}", f"base:{public_name(settings.model.name)}"]
    if looks_first and not place.is_here:  # or what its first step finds new would be answered with old results
        steps |= {name: {**steps[name], "enable_cache": False} for name in _steps_over_the_unpinned(settings)}
    return definition.with_options(
        # The dashboard's list cuts names off, and has columns for pipeline and time: what is special comes first.
        run_name=f"{settings.name}-{subject}-{definition.name}-{{date}}-{{time}}",
        model=None if looks_first else model,
        tags=[settings.name, f"stack:{place.stack}", *about],
        steps={name: options for name, options in steps.items() if options} or None,
        **place.pipeline_options(),
        enable_cache=None if cache else False,
        schedule=schedule,
        extra={PROCESS: this_process()} if place.is_here else None,
        execution_mode=ExecutionMode.FAIL_FAST,  # the default goes on, and loses the exception
    )


def _steps_over_the_unpinned(settings: Settings) -> list[str]:
    """Those that read what may have changed behind these settings, which were made elsewhere, and by a schedule long
    ago. Where it has not, their results are what they were, and the steps after them come from the cache."""
    data, model = settings.data, settings.model
    beside_rows = (data.databases, data.databases_sha256), (data.benchmark, data.benchmark_sha256)
    steps = ["ingest"]
    if any(path is not None and checksum is None for path, checksum in beside_rows):
        steps += ["validate", "evaluate"]
    if model.sha256 is None and not COMMIT.fullmatch(model.revision or ""):
        steps += ["finetune"]
    return steps


def _rows(settings: Settings) -> str:
    """What the data are called, as a part of a name."""
    data = settings.data
    name = data.path.stem if data.path is not None else data.dataset_name.rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)


def _finished(run: Any) -> Finished:
    from zenml.client import Client

    run = Client().get_pipeline_run(run.id)
    steps = {}
    for name, step in sorted(run.steps.items(), key=lambda item: item[1].start_time):
        seconds = (step.end_time - step.start_time).total_seconds() if step.end_time else 0.0
        steps[name] = "cached" if step.status == "cached" else f"{seconds:.1f} s"
    versions = [run.model_version, *(step.model_version for step in run.steps.values())]
    version = next(filter(None, versions), None)
    if version is None:
        return Finished(run.name, steps, run, "", None)
    return Finished(run.name, steps, run, f"{version.model.name} {version.number}", version.stage)


@contextmanager
def _tracebacks_of_bugs_only() -> Iterator[None]:
    """ZenML logs a failed step twice, with its traceback; for an error that names its remedy, our one line is enough.

    Only the terminal is spared: the dashboard keeps the traceback.
    """
    import zenml  # noqa: F401 - its import sets the handlers up

    class OnlyBugs(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            if record.name == "zenml.orchestrators.step_launcher":
                return not str(record.msg).startswith("Failed to run step")  # the exception itself comes through
            error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
            return error is None or not isinstance(understandable(error), Text2SQLError | KeyboardInterrupt)

    only_bugs = OnlyBugs()
    handlers = [h for h in logging.getLogger().handlers if isinstance(h, logging.StreamHandler)]
    for handler in handlers:
        handler.addFilter(only_bugs)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(only_bugs)


@contextmanager
def _no_unused_imports() -> Iterator[None]:
    """Keep ZenML from importing torch, transformers and more to find materializers: each output here names its own.

    That takes 6 s of two cores, most of a run that finds every step in the cache. Stack components and whatever else a
    run does use are imported on demand all the same.
    """
    from zenml.integrations.registry import integration_registry

    activate = integration_registry.activate_integrations
    integration_registry.activate_integrations = lambda: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        integration_registry.activate_integrations = activate  # type: ignore[method-assign]


@contextmanager
def _sigterm_ends_the_run() -> Iterator[None]:
    """As an exception, so that ZenML notes the step as failed; the fine-tuning has a gentler answer of its own."""

    def leave(_number: int, _frame: object) -> None:
        sys.exit(KILLED_EXIT)

    before: Any = None
    with suppress(ValueError):  # handlers can be set in the main thread only
        before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
