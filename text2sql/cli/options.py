"""What the commands share: options, settings from them, and errors as a line on stderr."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from text2sql.config import Settings

DEFAULT_CONFIG = Path(__file__).parents[2] / "configs" / "tiny.yaml"
Config = Annotated[Path, typer.Option(help="YAML file with what to train.", show_default="configs/tiny.yaml")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one key; repeatable.")
]


Verbose = Annotated[bool, typer.Option("--verbose", help="Show what libraries log, and tracebacks.")]


def guarded(work: Callable[[], int | None], verbose: bool = False) -> None:
    """Do the work and end with its exit code; a user's mistake is a line on stderr."""
    from text2sql.errors import Text2SQLError
    from text2sql.noise import set_noise

    set_noise(verbose)
    if verbose:
        logging.basicConfig(level=logging.INFO)
    try:
        code = work()
    except Text2SQLError as error:
        if verbose:
            traceback.print_exc()
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(code or 0)


def settings_of(config: Path, overrides: Sequence[str] | None) -> Settings:
    """The config with its overrides, inputs found and fingerprinted."""
    from text2sql.config_file import load_settings
    from text2sql.inputs import resolve_inputs

    return resolve_inputs(load_settings(config, list(overrides or [])))
