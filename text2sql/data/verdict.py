"""Judging one row: presence and size of its fields, SQL that parses, gold that reads and runs on its own schema."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlglot import exp

from text2sql.data import FIELDS
from text2sql.data.batches import TextRows
from text2sql.data.databases import database_path, run_on_files
from text2sql.data.repair import Repaired, repair
from text2sql.errors import (
    ExecutionError,
    ForbiddenFunctionError,
    ParseError,
    QueryTimeoutError,
    SqlError,
    UnsafeSqlError,
)
from text2sql.progress import progress
from text2sql.sql.database import build_database
from text2sql.sql.execute import run_query
from text2sql.sql.parse import MAX_QUERY_CHARS, assert_read_only, leading_word, parse
from text2sql.sql.schema import MAX_CONTEXT_CHARS, parse_schema
from text2sql.sql.workers import Failure, map_rows

_MAX_CHARS = {"question": 20_000, "context": MAX_CONTEXT_CHARS, "answer": MAX_QUERY_CHARS}

_HARMFUL = frozenset(
    """benchmark dblink dbms_lock dbms_pipe delay edit eval exec fts3_tokenizer load_extension load_file lo_export
    lo_import pg_ls_dir pg_read_binary_file pg_read_file pg_sleep pg_sleep_for pg_sleep_until pg_terminate_backend
    readfile shell sleep sys_eval sys_exec system utl_file utl_http writefile xp_cmdshell""".split()  # noqa: SIM905
)
"""Functions that, in a database that has them, wait, run code, or reach files and other machines."""
_ACTS = frozenset(
    """ALTER ATTACH CALL COPY CREATE DELETE DETACH DROP EXEC EXECUTE GRANT INSERT MERGE PRAGMA REPLACE TRUNCATE UPDATE
    VACUUM WAITFOR""".split()  # noqa: SIM905
)
"""Words with which a statement begins that is no query; looked for where the text does not parse."""

Verdict = tuple[str, str]
"""Reason (a short slug) and detail (one line)."""


def field_verdict(row: Sequence[Any]) -> Verdict | None:
    """What is wrong with the values of FIELDS themselves; no SQL is looked at."""
    for field, value in zip(FIELDS, row, strict=True):
        if value is None or value == "":
            return "empty_field", f"{field} is empty"
        if not isinstance(value, str):
            return "not_text", f"{field} is {type(value).__name__}, not text: {str(value)[:80]!r}"
        if not value.strip():
            return "empty_field", f"{field} is blank"
        if "\0" in value:
            return "nul_byte", f"{field} holds a NUL byte at character {value.index(chr(0))}"
        if len(value) > _MAX_CHARS[field]:
            return "too_long", f"{field} has {len(value)} characters; at most {_MAX_CHARS[field]} are read"
    return None


def check_queries(
    rows: TextRows, timeout: float, mend: bool, label: str, databases: Path | None = None
) -> list[dict[str, Any] | None]:
    """What `check_item` says of each row, in processes that may hang or die; under a bar.

    Args:
        rows: of context and answer, perhaps also of accepted and database.
        databases: folder of the files that rows name; without it these names do not count.
    """
    settings = {"timeout": timeout, "mend": mend, "folder": str(databases) if databases else None}
    with progress(label, len(rows)) as advance:
        return map_rows(
            "text2sql.data.verdict:check_item",
            _Items(rows, settings),
            seconds_an_item=30.0 + 4 * timeout,
            on_failure=_failed,
            on_done=advance,
        )


class _Items(Sequence[dict[str, Any]]):
    """Rows as items for a worker, each made when it is sent."""

    def __init__(self, rows: TextRows, settings: dict[str, Any]) -> None:
        self._rows, self._settings = rows, settings

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._settings | dict(zip(self._rows.columns, self._rows[index], strict=True))


def _failed(_item: Any, failure: Failure) -> dict[str, str]:
    return {"reason": "timeout" if failure.late else "does_not_run", "detail": f"checking it failed: {failure.words}"}


def check_item(item: dict[str, Any]) -> dict[str, Any] | None:
    """What a worker does with one row: the texts of its columns, and timeout, mend, folder.

    Returns:
        None when it is good as it is, `reason` and `detail` when it is not, and `context`, `answer` and `repairs` when
        it is good once repaired.
    """
    mend, texts = item["mend"], (item["context"], item["answer"])
    mended = repair(*texts) if mend else Repaired(*texts)
    verdict = _row_verdict(mended, item)
    if verdict:
        return dict(zip(("reason", "detail"), verdict, strict=True))
    if mended.repairs:
        return {"context": mended.context, "answer": mended.answer, "repairs": mended.repairs}
    return None


def _row_verdict(row: Repaired, item: dict[str, Any]) -> Verdict | None:
    """On the gold, on the others that are as right, and on the row's own database; the first that is no good."""
    timeout, accepted = item["timeout"], item.get("accepted") or []
    if verdict := _sql_verdict(row, timeout, forgiving=not item["mend"]):
        return verdict
    for number, other in enumerate(accepted, start=1):
        if verdict := _sql_verdict(Repaired(row.context, other), timeout, forgiving=True):
            return verdict[0], f"accepted query {number}: {verdict[1]}"
    if item["folder"] and item.get("database"):
        return _file_verdict(Path(item["folder"]), item["database"], [row.answer, *accepted], timeout)
    return None


def _file_verdict(folder: Path, name: str, queries: list[str], timeout: float) -> Verdict | None:
    try:
        run_on_files(database_path(folder, name), queries, timeout)
    except QueryTimeoutError as error:
        return "timeout", f"on {name}: {error}"
    except SqlError as error:
        return "database_disagrees", f"{name}: {error}"
    return None


def _sql_verdict(row: Repaired, timeout: float, forgiving: bool) -> Verdict | None:
    try:
        schema = parse_schema(row.context)
    except SqlError as error:
        return "context_unparsable", str(error)
    if verdict := _reading_verdict(row):
        return verdict
    try:
        database = build_database(schema, forgiving)
    except ExecutionError as error:
        return "context_does_not_build", str(error)
    try:
        run_query(database, row.answer, timeout)
    except tuple(_RUN_REASONS) as error:
        return next(reason for kind, reason in _RUN_REASONS.items() if isinstance(error, kind)), str(error)
    finally:
        database.close()
    if row.conflicts:
        return "types_differ", f"numbers and text are compared: {', '.join(row.conflicts)}"
    return None


_RUN_REASONS: dict[type[SqlError], str] = {
    ForbiddenFunctionError: "function_not_allowed",
    UnsafeSqlError: "not_read_only",
    QueryTimeoutError: "timeout",
    ExecutionError: "does_not_run",
}
"""By what running a query raises, the special before the general."""


def _reading_verdict(row: Repaired) -> Verdict | None:
    """What is wrong with an answer before anything runs."""
    try:
        tree = row.tree or parse(row.answer)
        assert_read_only(tree)
    except UnsafeSqlError as error:
        return "not_read_only", str(error)
    except ParseError as error:
        act = next((word for part in row.answer.split(";") if (word := leading_word(part)) in _ACTS), None)
        return ("not_read_only", f"one statement begins with {act}") if act else ("answer_unparsable", str(error))
    names = (node.name if isinstance(node, exp.Anonymous) else node.sql_name() for node in tree.find_all(exp.Func))
    harmful = next((name.lower() for name in names if name.lower() in _HARMFUL), None)
    return ("function_not_allowed", f"function {harmful} is not allowed") if harmful else None
