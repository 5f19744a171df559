"""The SQLite files that rows name: where they are, and whether queries run there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from text2sql.errors import ExecutionError
from text2sql.sql.execute import run_query
from text2sql.sql.files import open_database

SUITE = "*.sqlite"
"""The files that count where a row names a folder, as the distilled test suites of Spider are folders."""


def database_path(folder: Path, name: str) -> Path:
    """The file, or the folder of files, that a row names. Rows are not trusted: it lies below `folder`, links followed.

    Raises:
        ExecutionError: it would be somewhere else.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ExecutionError(f"database {name!r} is not in {folder}; name a file below data.databases")
    return path


def database_files(path: Path) -> list[Path]:
    """The file itself, or those of a folder that make a test suite, by name.

    Raises:
        ExecutionError: the folder has none.
    """
    if not path.is_dir():
        return [path]
    files = sorted(path.glob(SUITE))
    if not files:
        raise ExecutionError(f"database {path} is a folder without any {SUITE}; name a file, or a folder of such files")
    return files


def run_on_files(path: Path, queries: Sequence[str], timeout: float) -> None:
    """Run each query on each file of `database_files`; the files stay as they are.

    Raises:
        SqlError: a file cannot be used, or a query fails there.
    """
    for file in database_files(path):
        with closing(open_database(file)) as database:
            for query in queries:
                run_query(database, query, timeout)
