"""python -m text2sql benchmark: any model, server or file of predictions, judged on any test rows."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from text2sql.cli.options import DEFAULT_CONFIG, Config, Overrides, Verbose, guarded, settings_of
from text2sql.errors import GATE_FAILED


class Mode(StrEnum):
    """Where the model answers."""

    LOCAL = "local"
    VLLM = "vllm"


def benchmark(
    model: Annotated[
        str | None, typer.Option(help="Model folder or hub name; with --mode vllm the name that the server has for it.")
    ] = None,
    test_data: Annotated[
        Path | None,
        typer.Option(
            help="Prepared folder, or a file of rows; default: the test split of the config's data.",
            show_default=False,
        ),
    ] = None,
    config: Config = DEFAULT_CONFIG,
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option(help="JSON file; a page and a summary are put beside it.")] = Path(
        "results/benchmark/evaluation.json"  # not beside a training's own
    ),
    mode: Annotated[Mode, typer.Option(help="local: Transformers in this process; vllm: a server.")] = Mode.LOCAL,
    host: Annotated[str, typer.Option(help="Host of an OpenAI-compatible server, for --mode vllm.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Its port.", min=1, max=65535)] = 8000,
    predictions: Annotated[
        Path | None, typer.Option(help="File with an answer for each test row, instead of a model.", show_default=False)
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option(help="Another model folder or hub name to compare with; repeatable.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Base model, judged with the plain prompt and with examples; --gate then asks to beat both."),
    ] = None,
    gate: Annotated[bool, typer.Option("--gate", help="Hold the figures against the config's gate.")] = False,
    verbose: Verbose = False,
) -> None:
    """Judge a model, a server or a file of predictions. Figures with intervals to stdout, a report to --output.

    Exit codes: 0 done, 1 failed, 2 wrong usage or config, 3 --gate was given and did not pass.
    """
    if (predictions is None) == (model is None) and not (mode is Mode.VLLM and predictions is None):
        raise typer.BadParameter("give --model or --predictions, one of them", param_hint="--model")
    if output.suffix != ".json" or output.is_dir():
        raise typer.BadParameter(f"{output} is no file name that ends in .json", param_hint="--output")
    if predictions is not None and mode is Mode.VLLM:
        raise typer.BadParameter("a file of predictions needs no server", param_hint="--mode")

    def work() -> int:
        from text2sql.evaluation.benchmark import Candidates
        from text2sql.evaluation.benchmark import benchmark as judge
        from text2sql.results import check_writable

        settings = settings_of(config, overrides)
        check_writable(output.parent)
        url = f"http://{host}:{port}" if mode is Mode.VLLM else None
        candidates = Candidates(model, url, predictions, tuple(against or ()), base)
        evaluation, verdict = judge(settings, candidates, test_data)
        _write(output, evaluation, verdict if gate else None, settings.evaluation.report_examples)
        return GATE_FAILED if gate and not verdict.passed else 0

    guarded(work, verbose)


def _write(output: Path, evaluation: Any, verdict: Any, examples: int) -> None:
    from text2sql.evaluation.report import render_report
    from text2sql.evaluation.summary import summary_markdown
    from text2sql.results import export

    summary = summary_markdown(evaluation, verdict)
    texts = {
        output.name: evaluation.to_json(),
        output.with_suffix(".html").name: render_report(evaluation, verdict, examples=examples),
        output.with_suffix(".md").name: summary,
    }
    written = export(output.parent, {}, texts)
    sys.stdout.write(summary)
    for path in written:
        typer.echo(path, err=True)
