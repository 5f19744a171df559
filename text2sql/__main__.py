"""python -m text2sql COMMAND: what needs no pipeline."""

from __future__ import annotations

import typer

from text2sql.cli.benchmark import benchmark
from text2sql.cli.data import peek, prepare
from text2sql.cli.fetch import fetch
from text2sql.cli.key import key
from text2sql.cli.plan import plan
from text2sql.cli.schema import schema
from text2sql.cli.serve import serve

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def commands() -> None:
    """Plan a run, look at schemas and data, prepare it, judge models, fetch and serve them."""


for command in (plan, schema, peek, prepare, benchmark, serve, key, fetch):
    app.command()(command)

if __name__ == "__main__":
    app(prog_name="python -m text2sql")
