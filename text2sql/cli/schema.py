"""python -m text2sql schema: a database's CREATE TABLE statements, and rows for training that have them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from text2sql.cli.options import guarded


def schema(
    source: Annotated[
        str,
        typer.Argument(
            help="SQLite file, SQLAlchemy URL of PostgreSQL, MySQL or MariaDB, .sql or .csv file. A URL with a "
            "password belongs in the environment, which no other user can read.",
            envvar="TEXT2SQL_DATABASE",
        ),
    ],
    tables: Annotated[list[str] | None, typer.Option("--table", help="This table alone; repeatable.")] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            help="File of questions and their SQL; each row is printed as JSON, with the schema as its context.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print a database's tables as CREATE TABLE statements. Names, types and keys; no rows and no comments."""

    def work() -> None:
        text = _chosen(_described(source), tables or ())
        if questions is None:
            typer.echo(text)
            return
        more = {"context": text}
        if "://" not in source and not _is_text(source):
            more["database"] = Path(source).name
        for row in _rows(questions, more):
            typer.echo(json.dumps(row, ensure_ascii=False))

    guarded(work)


def _described(source: str) -> str:
    from text2sql.errors import DataError
    from text2sql.serving.databases import open_source
    from text2sql.sql.describe import schema_of_csv, schema_text
    from text2sql.sql.schema import parse_schema

    if not _is_text(source):
        return open_source(source).describe()
    try:
        text = Path(source).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: cannot be read ({error}); name a UTF-8 text file, or a database") from None
    return schema_text(schema_of_csv(text, Path(source).name) if source.endswith(".csv") else parse_schema(text))


def _is_text(source: str) -> bool:
    return "://" not in source and source.endswith((".csv", ".sql"))


def _chosen(text: str, names: Sequence[str]) -> str:
    """The statements of these tables, a line each, word for word as a server gives them; all without names."""
    from text2sql.errors import DataError
    from text2sql.sql.schema import parse_schema

    if not text:
        raise DataError("the database has no table that this user may see; check the path or the user's rights")
    lines = {table.name.lower(): line for table, line in zip(parse_schema(text).tables, text.splitlines(), strict=True)}
    wanted = {name.lower() for name in names} or set(lines)
    if missing := wanted - set(lines):
        raise DataError(f"--table {min(missing)}: no such table; there are {', '.join(lines)}")
    return "\n".join(line for name, line in lines.items() if name in wanted)


def _rows(path: Path, more: dict[str, str]) -> list[dict[str, Any]]:
    from text2sql.data.formats import read_file
    from text2sql.errors import DataError

    table = read_file(path, ())
    if taken := sorted(more.keys() & set(table.column_names)):
        raise DataError(
            f"{path}: has a column {taken[0]} already, so these rows have a schema; train on them as they are"
        )
    return [row | more for row in table.to_pylist()]
