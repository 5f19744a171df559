"""python -m text2sql peek and prepare: rows as training sees them, and written to train from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from text2sql.cli.options import DEFAULT_CONFIG, Config, Overrides, Verbose, guarded, settings_of
from text2sql.progress import working

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from text2sql.config import Settings


def peek(
    config: Config = DEFAULT_CONFIG,
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(help="Examples of each split.", min=1)] = 2,
    verbose: Verbose = False,
) -> None:
    """Show rows as training sees them. Tokens that carry loss are green; below are the splits' sizes. No GPU needed."""
    guarded(lambda: _peek(settings_of(config, overrides), rows), verbose)


def prepare(
    config: Config = DEFAULT_CONFIG,
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("data/processed"),
    verbose: Verbose = False,
) -> None:
    """Write checked, split and formatted rows, with a report. Arrow files; --set data.path=FOLDER trains on them."""
    guarded(lambda: _prepare(settings_of(config, overrides), output), verbose)


def _tokenizer(settings: Settings) -> PreTrainedTokenizerBase:
    with working("loading Transformers"):  # what is wrong with the rows is told before it is there
        from text2sql.training.model import load_tokenizer
    return load_tokenizer(settings.model)


def _peek(settings: Settings, count: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from text2sql.data.check import check_rows
    from text2sql.data.expectations import too_many_rejected
    from text2sql.data.load import load_rows
    from text2sql.data.peek import masked_rows
    from text2sql.data.prepare import prepare as prepare_rows
    from text2sql.errors import DataError

    rows = load_rows(settings.data)
    tokenizer = _tokenizer(settings)
    checked = check_rows(rows, settings.data)
    if problem := too_many_rejected(checked, settings.data):
        raise DataError(problem)
    prepared = prepare_rows(checked, settings, tokenizer)
    console = Console(highlight=False, soft_wrap=True)
    for name, rows in prepared.splits.items():
        for number, (text, tokens, labels) in enumerate(
            masked_rows(tokenizer, rows.select(range(min(count, rows.num_rows)))), start=1
        ):
            console.rule(f"{name} {number}: {tokens} tokens, {labels} with loss", align="left")
            console.print(text)
    report = prepared.tokens.to_dict()["splits"]
    table = Table(box=None, padding=(0, 2))
    for column in ("split", *next(iter(report.values()))):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, figures in report.items():
        table.add_row(
            name, *(f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" for value in figures.values())
        )
    console.rule(f"splits (over: more than training.max_length = {settings.training.max_length} tokens)", align="left")
    console.print(table)


def _prepare(settings: Settings, output: Path) -> None:
    import tempfile

    from text2sql.data.check import check_rows
    from text2sql.data.expectations import failure_texts, hold_against_suite, too_many_rejected
    from text2sql.data.load import load_rows, overruled
    from text2sql.data.prepare import prepare as prepare_rows
    from text2sql.data.prepare import report, save_arrow
    from text2sql.errors import DataError
    from text2sql.results import check_writable, export

    check_writable(output)
    for line in overruled(settings.data):
        typer.echo(f"prepared before with {line}", err=True)
    rows = load_rows(settings.data)
    tokenizer = _tokenizer(settings)  # before the rows are checked: it takes a while to find it missing
    checked = check_rows(rows, settings.data)
    texts = failure_texts(checked, hold_against_suite(rows, checked, settings.data))
    if problem := too_many_rejected(checked, settings.data):
        written = export(output, {}, texts)
        raise DataError(f"{problem}; see {' and '.join(map(str, written))}")
    prepared = prepare_rows(checked, settings, tokenizer)
    with tempfile.TemporaryDirectory(dir=output.parent if output.parent.is_dir() else None) as folder:
        folders, more = save_arrow(prepared, settings.data, Path(folder))
        export(output, folders, {**texts, **more})
    typer.echo(report(prepared), err=True)
    typer.echo(output)
