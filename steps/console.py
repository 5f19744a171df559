"""What a step tells: the person at the terminal on stderr, and ZenML's dashboard as metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def announce(step: str, line: str) -> None:
    """One line when a step begins."""
    _console().print(f"[bold]▸ {step}[/bold]  {_escape(line)}")


def tell(line: str) -> None:
    """One line of what a step found."""
    _console().print(f"  {_escape(line)}")


def warn(line: str) -> None:
    """One line that must not be overlooked."""
    _console().print(f"  [bold yellow]! {_escape(line)}[/bold yellow]")


def show_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A small table; numbers to the right."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2))
    for index, column in enumerate(columns):
        numbers = all(isinstance(row[index], int | float) for row in rows)
        table.add_column(column, justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*(_escape(_number(cell) if isinstance(cell, int | float) else str(cell)) for cell in row))
    _console().print(table)


def record(figures: Mapping[str, Any], model_version: bool = False) -> None:
    """Figures as metadata of the running step, or of its model version; nothing outside a pipeline run."""
    from zenml import get_step_context, log_metadata

    from materializers.base import finite

    try:
        context = get_step_context()
    except RuntimeError:  # the step's function is called by itself, as tests and notebooks do
        return
    found = finite(dict(figures))
    if found and model_version:
        log_metadata(metadata=found, infer_model=True)
    elif found:
        log_metadata(metadata=found, step_id=context.step_run.id)


def sum_up(groups: Mapping[str, Mapping[str, str]], *tags: str) -> None:
    """What the run's page shows of it, in groups, as people read it; and tags beside those it was started with.

    ZenML's open dashboard has no page for a model version. Names of groups have no colon: it refuses them.
    """
    from zenml import add_tags, get_step_context, log_metadata

    try:
        run = get_step_context().pipeline_run
    except RuntimeError:  # called by itself, outside a pipeline
        return
    log_metadata(metadata={name: dict(group) for name, group in groups.items() if group}, run_id_name_or_prefix=run.id)
    add_tags(tags=list(tags), run=run.id)


def keep_artifact(name: str, data: Any) -> None:
    """Store an artifact now, for a step that is about to fail: ZenML stores what it returns only when it returns."""
    from zenml import get_step_context, save_artifact

    try:
        get_step_context()
    except RuntimeError:  # called by itself, outside a pipeline
        return
    save_artifact(data, name)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
