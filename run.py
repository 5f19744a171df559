"""The one command line for pipelines: parse, load the config, run. Heavy imports wait until they are needed."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from text2sql.errors import GATE_FAILED

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "tiny.yaml"
QUIET = {
    "ZENML_LOGGING_VERBOSITY": "WARN",
    "ZENML_ANALYTICS_OPT_IN": "false",
    "ZENML_ENABLE_REPO_INIT_WARNINGS": "false",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Environment of a run unless the user has set it; ZenML reads it when it is imported."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    pipeline: Annotated[
        str | None,
        typer.Option(help="Which pipeline to run: train, evaluate, deploy; or status, stop: of what is deployed."),
    ] = None,
    config: Annotated[Path, typer.Option(help="YAML file with what to train.", show_default=False)] = DEFAULT_CONFIG,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one key; repeatable.")
    ] = None,
    stack: Annotated[str | None, typer.Option(help="Registered ZenML stack, for this run only.")] = None,
    model_version: Annotated[
        str | None,
        typer.Option(help="For evaluate, deploy: number or stage of a model version; default: the newest of use."),
    ] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Serve the version before this one again.")] = False,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Use finished steps again.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print config, steps and places; start nothing.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show ZenML's own log, and tracebacks.")] = False,
) -> None:
    """Run a pipeline: --config says what to train (default: configs/tiny.yaml), --stack says where.

    Exit codes: 0 done, 1 failed, 2 wrong usage or config, 3 done and the gate did not pass, 130 stopped.
    """
    from pipelines import ACTIONS
    from text2sql.errors import Text2SQLError

    pipeline = _checked(pipeline or ("deploy" if rollback else None), rollback, model_version, dry_run)
    for name, value in QUIET.items():
        os.environ.setdefault(name, "INFO" if verbose and name == "ZENML_LOGGING_VERBOSITY" else value)
    try:
        if rollback or pipeline in ACTIONS:
            from pipelines.live import act

            code = act("rollback" if rollback else pipeline, config, overrides or [])
        else:
            code = run(pipeline, config, overrides or [], stack, model_version, cache, dry_run)
    except Text2SQLError as error:
        if verbose:
            import traceback

            traceback.print_exc()
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        code = 130
    raise typer.Exit(code)


def _checked(pipeline: str | None, rollback: bool, model_version: str | None, dry_run: bool) -> str:
    """The pipeline, or a usage error."""
    from pipelines import ACTIONS, PIPELINES

    if pipeline is None or pipeline not in (*PIPELINES, *ACTIONS):
        what = f"no pipeline {pipeline!r}" if pipeline else "name a pipeline"
        raise typer.BadParameter(f"{what}; there are: {', '.join((*PIPELINES, *ACTIONS))}", param_hint="--pipeline")
    if rollback and (pipeline != "deploy" or model_version is not None or dry_run):
        raise typer.BadParameter("it goes back to the version before, and takes nothing else", param_hint="--rollback")
    if dry_run and pipeline in ACTIONS:
        raise typer.BadParameter(f"{pipeline} is no run", param_hint="--dry-run")
    if model_version is not None and (pipeline in ACTIONS or not PIPELINES[pipeline].of_version):
        raise typer.BadParameter(
            f"{pipeline} is not about a version to be named; leave it out", param_hint="--model-version"
        )
    return pipeline


def run(
    pipeline: str,
    config: Path,
    overrides: list[str],
    stack: str | None,
    model_version: str | None,
    cache: bool,
    dry_run: bool,
) -> int:
    """Run, show the outcome, and return the exit code."""
    from pipelines import PIPELINES
    from text2sql.config_file import load_settings
    from text2sql.inputs import check_reachable, resolve_inputs
    from text2sql.results import check_writable

    started = time.monotonic()
    settings = load_settings(config, overrides)
    if pipeline != "deploy":  # which needs nothing but what the version's own run has left
        settings = resolve_inputs(settings, rows=not PIPELINES[pipeline].of_version)
        check_writable(settings.output_dir)

    from pipelines.outcome import show, show_plan, write_results
    from pipelines.stacks import default_place, find_place, zenml_has_run

    if dry_run and stack is None and not zenml_has_run():
        show_plan(pipeline, PIPELINES[pipeline].steps, settings, default_place())
        return 0
    place = find_place(stack)
    if dry_run:
        show_plan(pipeline, PIPELINES[pipeline].steps, settings, place)
        return 0

    if place.is_here and pipeline != "deploy":
        check_reachable(settings.model)

    from pipelines.launch import launch

    finished = launch(pipeline, settings, place, cache, model_version)
    if pipeline == "deploy":
        from pipelines.live import show_deployment

        show_deployment(finished, settings)
        return 0
    outcome = write_results(finished, settings)
    show(outcome, finished)
    print(f"{time.monotonic() - started:.0f} s in all", file=sys.stderr)
    return 0 if outcome.verdict.passed else GATE_FAILED


if __name__ == "__main__":
    app()
