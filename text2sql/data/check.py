"""Every row is valid, or set aside with a reason: text, presence, size, SQL that parses, gold that reads and runs."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from text2sql.config import DataSection
from text2sql.data.load import PROBLEM
from text2sql.errors import (
    DataError,
    ExecutionError,
    ForbiddenFunctionError,
    ParseError,
    QueryTimeoutError,
    SqlError,
    UnsafeSqlError,
)
from text2sql.sql.database import build_database
from text2sql.sql.execute import run_query
from text2sql.sql.parse import MAX_QUERY_CHARS, assert_read_only, parse
from text2sql.sql.schema import MAX_CONTEXT_CHARS, parse_schema
from text2sql.sql.workers import map_rows

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

FIELDS = ("question", "context", "answer")
_MAX_CHARS = {"question": 20_000, "context": MAX_CONTEXT_CHARS, "answer": MAX_QUERY_CHARS}
_BAR_FROM = 20_000
"""Rows from which a progress bar is worth its lines."""

Verdict = tuple[str, str]
"""Reason (a short slug) and detail (one line)."""


@dataclass(frozen=True)
class CheckedRows:
    """What can be used, what cannot, and why."""

    valid: Dataset
    rejected: Dataset
    """All columns of the rows, and `reason` and `detail`."""
    counts: dict[str, int]
    """Rejected rows by reason, most frequent first."""


def check_rows(rows: Dataset, data: DataSection) -> CheckedRows:
    """Sort rows into valid and rejected ones, in their order.

    Reasons: not_text, empty_field, nul_byte, too_long, duplicate (question, context and answer of an earlier row),
    context_unparsable, answer_unparsable, not_read_only, function_not_allowed, does_not_run, timeout. SQLite's reading
    of "text" as a string is accepted.

    Raises:
        DataError: there are no rows, or none is valid.
    """
    if not len(rows):
        raise DataError("there are no rows to check; look at data.path, data.dataset_name and data.subset_fraction")
    verdicts = _verdicts(list(zip(*(rows[field][:] for field in FIELDS), strict=True)), data.query_timeout)
    if PROBLEM in rows.column_names:
        verdicts = [("not_text", p) if p else v for p, v in zip(rows[PROBLEM], verdicts, strict=True)]
        rows = rows.remove_columns(PROBLEM)
    good = [i for i, verdict in enumerate(verdicts) if verdict is None]
    bad = [(i, verdict) for i, verdict in enumerate(verdicts) if verdict is not None]
    counts = dict(Counter(reason for _, (reason, _) in bad).most_common())
    logger.info("%d of %d rows are valid; set aside: %s", len(good), len(rows), counts or "none")
    if not good:
        index, (reason, detail) = bad[0]
        raise DataError(
            f"none of the {len(rows)} rows is valid ({_listed(counts)}); row {index}, for example: {reason}: {detail}. "
            "Look at the file and at data.question_column, data.context_column and data.answer_column"
        )
    return CheckedRows(rows.select(good), _rejected(rows, bad), counts)


def _rejected(rows: Dataset, bad: list[tuple[int, Verdict]]) -> Dataset:
    from datasets import Dataset, Features, Value

    columns = rows.select([i for i, _ in bad])[:] if bad else {name: [] for name in rows.column_names}
    columns |= {"reason": [reason for _, (reason, _) in bad], "detail": [detail for _, (_, detail) in bad]}
    features = Features({**rows.features, "reason": Value("string"), "detail": Value("string")})
    return Dataset.from_dict(columns, features=features)


def _verdicts(rows: Sequence[tuple[Any, ...]], timeout: float) -> list[Verdict | None]:
    verdicts: list[Verdict | None] = [None] * len(rows)
    first: dict[tuple[Any, ...], int] = {}
    queries: list[int] = []
    for i, row in enumerate(rows):
        verdicts[i] = _field_verdict(row)
        if verdicts[i] is not None:
            continue
        earlier = first.setdefault(row, i)
        if earlier != i:
            verdicts[i] = ("duplicate", f"the same as row {earlier}")
        else:
            queries.append(i)
    items = [(rows[i][1], rows[i][2], timeout) for i in queries]
    answers = _map_with_bar(items, seconds_an_item=30.0 + 2 * timeout)
    for i, answer in zip(queries, answers, strict=True):
        verdicts[i] = tuple(answer) if answer else None
    return verdicts


def _field_verdict(row: tuple[Any, ...]) -> Verdict | None:
    """What is wrong with the fields themselves; no SQL is looked at."""
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


def check_item(item: Sequence[Any]) -> Verdict | None:
    """What a worker does with one row: (context, gold, timeout) to what is wrong with it, or None."""
    context, gold, timeout = item
    try:
        schema = parse_schema(context)
    except SqlError as error:
        return "context_unparsable", str(error)
    try:
        assert_read_only(parse(gold))
    except UnsafeSqlError as error:
        return "not_read_only", str(error)
    except ParseError as error:
        return "answer_unparsable", str(error)
    try:
        database = build_database(schema, forgiving=True)
        try:
            run_query(database, gold, timeout)
        finally:
            database.close()
    except ForbiddenFunctionError as error:
        return "function_not_allowed", str(error)
    except UnsafeSqlError as error:
        return "not_read_only", str(error)
    except QueryTimeoutError as error:
        return "timeout", str(error)
    except ExecutionError as error:
        return "does_not_run", str(error)
    return None


def _killed(_item: Any, reason: str) -> Verdict:
    return ("timeout" if reason.startswith("took") else "does_not_run"), f"checking it failed: {reason}"


def _map_with_bar(items: list[Any], seconds_an_item: float) -> list[Any]:
    function = "text2sql.data.check:check_item"
    if len(items) < _BAR_FROM or not sys.stderr.isatty():
        return map_rows(function, items, seconds_an_item, _killed)
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("checking rows", total=len(items))
        return map_rows(function, items, seconds_an_item, _killed, on_done=lambda n: progress.advance(bar, n))


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.items())
