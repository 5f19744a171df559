"""python -m text2sql fetch: a model from an object store into a folder, checked byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from text2sql.cli.options import Verbose, guarded


def fetch(
    source: Annotated[str, typer.Argument(help="Where it lies: s3://…, gs://…, hf://NAME@REVISION, a folder.")],
    sha256: Annotated[str, typer.Option(help="Checksum of the model folder.")],
    to: Annotated[Path, typer.Option(help="Folder in which it is put, under its checksum.")],
    without_weights: Annotated[bool, typer.Option("--without-weights", help="Tokenizer and prompt alone.")] = False,
    keep: Annotated[int, typer.Option(help="Models that may lie there; the oldest go.", min=1)] = 3,
    verbose: Verbose = False,
) -> None:
    """Fetch a model. One that is there already is checked, and left as it is."""

    def work() -> int:
        from text2sql.deployment import artifacts
        from text2sql.progress import working

        with working(f"fetching {source}, or checking what is there"):
            folder = artifacts.fetch(source, sha256, to, without_weights=without_weights, keep=keep)
        print(folder)  # noqa: T201
        return 0

    guarded(work, verbose)
