"""python -m text2sql key: API keys for the server, kept as hashes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from text2sql.cli.options import guarded


def key(
    name: Annotated[
        str | None, typer.Argument(help="Whose key it is; a second one lets the first be replaced.")
    ] = None,
    file: Annotated[Path, typer.Option(help="File of hashed keys, as serve --api-keys reads it.")] = Path("keys.txt"),
    rate: Annotated[
        str | None, typer.Option(help="Questions it may ask, such as 60/minute.", show_default=False)
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="List IDs, names and rates.")] = False,
    revoke: Annotated[str | None, typer.Option(metavar="ID", help="Take a key out of the file.")] = None,
) -> None:
    """Make an API key. It is printed once, and its hash added to the file. A running server reads the file again."""
    if [name is not None, show, revoke is not None].count(True) != 1:
        raise typer.BadParameter("give a name, --list or --revoke ID, one of them", param_hint="NAME")

    def work() -> None:
        from text2sql.serving.auth import add_key, make_key, read_keys, revoke_key

        if name is not None:
            text, made = make_key(name, rate)
            add_key(file, made)
            typer.echo(text)
            typer.echo(f"key {made.id} added to {file}; it is not shown again", err=True)
        elif revoke is not None:
            typer.echo(f"key {revoke_key(file, revoke).id} taken out of {file}", err=True)
        else:
            for found in read_keys(file).values():
                typer.echo("\t".join((found.id, found.name, found.rate or "")))

    guarded(work)
