"""The one command line for pipelines: parse, load the config, run. Heavy imports wait until they are needed."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "tiny.yaml"
QUIET = {
    "ZENML_LOGGING_VERBOSITY": "WARN",
    "ZENML_ANALYTICS_OPT_IN": "false",
    "ZENML_ENABLE_REPO_INIT_WARNINGS": "false",
}
"""What ZenML reads when it is imported, unless the user has set it."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    pipeline: Annotated[
        str | None,
        typer.Option(
            help="train, evaluate, deploy, retrain; status, stop (what is live); register-stack, schedules, dashboard."
        ),
    ] = None,
    config: Annotated[Path, typer.Option(help="YAML file with what to train.", show_default=False)] = DEFAULT_CONFIG,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one key; repeatable.")
    ] = None,
    stack: Annotated[
        str | None, typer.Option(help="Where: a file of stacks/, or another registered ZenML stack.")
    ] = None,
    model_version: Annotated[
        str | None,
        typer.Option(help="For evaluate, deploy: number or stage of a model version; default: the newest of use."),
    ] = None,
    schedule: Annotated[str | None, typer.Option(metavar="CRON", help="retrain: at these times, five fields.")] = None,
    timezone: Annotated[str | None, typer.Option(help="Of --schedule, e.g. Europe/Berlin; UTC if left out.")] = None,
    unschedule: Annotated[str | None, typer.Option(metavar="NAME", help="Take a schedule away.")] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Serve the version before this one again.")] = False,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Use finished steps again.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print config, steps and places; start nothing.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what libraries log, and tracebacks.")] = False,
) -> None:
    """Run a pipeline: --config says what to train (default: configs/tiny.yaml), --stack says where.

    Exit codes: 0 done, 1 failed, 2 wrong usage or config, 3 done and the gate did not pass, 130 stopped.
    """
    from pipelines import ACTIONS, STACK_ACTIONS, Given, usage_problem
    from text2sql.errors import Text2SQLError
    from text2sql.noise import set_noise

    pipeline = pipeline or ("deploy" if rollback else "schedules" if unschedule else "")
    given = Given(rollback, model_version, dry_run, schedule, timezone, unschedule)
    if problem := usage_problem(pipeline, given):
        raise typer.BadParameter(problem[1], param_hint=problem[0])
    set_noise(verbose)
    for name, value in QUIET.items():
        os.environ.setdefault(name, "INFO" if verbose and name == "ZENML_LOGGING_VERBOSITY" else value)
    try:
        if rollback or pipeline in ACTIONS:
            from pipelines.live import act

            code = act("rollback" if rollback else pipeline, config, overrides or [])
        elif pipeline in STACK_ACTIONS:
            from pipelines.manage import manage

            code = manage(pipeline, stack, dry_run, unschedule)
        else:
            from pipelines.command import Request, carry_out

            code = carry_out(
                Request(pipeline, config, overrides or [], stack, model_version, cache, dry_run, schedule, timezone)
            )
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


if __name__ == "__main__":
    app()
