"""python -m text2sql serve: the HTTP API, vLLM alone, or a prompt on this terminal."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from text2sql.cli.options import Verbose, guarded
from text2sql.errors import ConfigError
from text2sql.progress import working


class Mode(StrEnum):
    """What is served."""

    API = "api"
    VLLM = "vllm"
    LOCAL = "local"


def serve(
    mode: Annotated[
        Mode, typer.Option(help="api: HTTP, with a page; vllm: vLLM's own server; local: ask on this terminal.")
    ] = Mode.API,
    model: Annotated[
        str | None, typer.Option(help="Merged model, adapter or hub name; default: results/merged_model.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; default: 8000.", min=0, max=65535)] = None,
    engine: Annotated[str | None, typer.Option(help="transformers (default) or vllm.")] = None,
    api_keys: Annotated[
        Path | None, typer.Option(help="File of keys made by `python -m text2sql key`.", show_default=False)
    ] = None,
    database: Annotated[
        str | None, typer.Option(help="SQLite file or read-only SQLAlchemy URL to run answers on.", show_default=False)
    ] = None,
    vllm_arg: Annotated[
        list[str] | None,
        typer.Option(metavar="ARGUMENT", help="More for vLLM: --vllm-arg='--max-model-len 4096'; repeatable."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of docs/serving.md.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Serve a model. Each setting is also read from the environment: TEXT2SQL_PORT=8000."""
    given: dict[str, Any] = {
        "model": model,
        "host": host,
        "port": port,
        "engine": engine,
        "api_keys": api_keys,
        "database": database,
    }

    def work() -> int:
        from text2sql.serving.settings import assignments, server_settings

        given["vllm_arguments"] = [word for argument in vllm_arg or () for word in _words(argument)] or None
        settings = server_settings(given | assignments(overrides or []))
        if mode is Mode.LOCAL:
            return int(import_module("text2sql.serving.repl").run(settings))
        if mode is Mode.VLLM:
            from text2sql.serving.engines import run_vllm

            return run_vllm(settings)
        with working("loading the server") if sys.stderr.isatty() else nullcontext():  # a log has JSON lines alone
            from text2sql.serving.server import serve as serve_api

        return serve_api(settings)

    guarded(work, verbose)


def _words(argument: str) -> list[str]:
    """As a shell splits them."""
    try:
        return shlex.split(argument)
    except ValueError as error:
        raise ConfigError([f"--vllm-arg {argument!r}: {str(error).lower()}; quote it as for a shell"]) from None
