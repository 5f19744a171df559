"""Every row is valid, mended, or set aside with a reason: presence, size, SQL that parses, gold that reads and runs."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from text2sql.config import DataSection
from text2sql.data.load import PROBLEM, read_file
from text2sql.data.prompt import plain_question
from text2sql.data.repair import Repaired, repair
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
from text2sql.sql.normalise import normalise
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

ORIGINAL = ("original_context", "original_answer")
"""Columns with the texts of a row as they were before they were repaired; empty in all other rows."""

Verdict = tuple[str, str]
"""Reason (a short slug) and detail (one line)."""


@dataclass(frozen=True)
class CheckedRows:
    """What can be used, what cannot, and why."""

    valid: Dataset
    """With data.repair, three more columns: `repairs` (kinds, joined by commas) and those of ORIGINAL."""
    rejected: Dataset
    """All columns of the rows as they came, and `reason` and `detail`."""
    counts: dict[str, int]
    """Rejected rows by reason, most frequent first."""
    repairs: dict[str, int]
    """Repairs of valid rows by kind, most frequent first."""
    repaired: int
    """Valid rows with at least one repair."""


@dataclass
class _Row:
    """What is known of one row: its texts, as they came or mended, and what is wrong with them."""

    texts: tuple[Any, ...]
    verdict: Verdict | None = None
    repairs: tuple[str, ...] = ()


def check_rows(rows: Dataset, data: DataSection) -> CheckedRows:
    """Sort rows into valid and rejected ones, in their order, and mend what has one remedy (text2sql.data.repair).

    Reasons: not_text, empty_field, nul_byte, too_long, duplicate (question, context and answer of an earlier row),
    context_unparsable, answer_unparsable, not_read_only, function_not_allowed, does_not_run, timeout; with data.repair
    also types_differ (a number compared with text) and conflicting_answers (one question and context, several
    answers: none of them can be trusted). Without it rows stay as they are, and SQLite's reading of "text" as a string
    is accepted. in_benchmark: data.benchmark asks the same question.

    Raises:
        DataError: there are no rows, none is valid, or data.benchmark cannot be read.
    """
    if not len(rows):
        raise DataError("there are no rows to check; look at data.path, data.dataset_name and data.subset_fraction")
    problems = rows[PROBLEM][:] if PROBLEM in rows.column_names else [""] * len(rows)
    texts = zip(*(rows[field][:] for field in FIELDS), strict=True)
    found = [
        _Row(row, ("not_text", problem) if problem else _field_verdict(row))
        for problem, row in zip(problems, texts, strict=True)
    ]
    if PROBLEM in rows.column_names:
        rows = rows.remove_columns(PROBLEM)
    if data.benchmark is not None:
        _keep_out(found, data)
    _find_duplicates(found)
    _check_queries(found, data)
    if data.repair:
        _find_duplicates(found)
        _find_conflicts(found)
    return _sorted_out(rows, found, data.repair)


def _sorted_out(rows: Dataset, found: list[_Row], repaired: bool) -> CheckedRows:
    good = [i for i, row in enumerate(found) if row.verdict is None]
    bad = [(i, row.verdict) for i, row in enumerate(found) if row.verdict is not None]
    counts = dict(Counter(reason for _, (reason, _) in bad).most_common())
    repairs = dict(Counter(kind for i in good for kind in found[i].repairs).most_common())
    logger.info("%d of %d rows are valid; set aside: %s", len(good), len(rows), counts or "none")
    if not good:
        index, (reason, detail) = bad[0]
        raise DataError(
            f"none of the {len(rows)} rows is valid ({_listed(counts)}); row {index}, for example: {reason}: {detail}. "
            "Look at the file and at data.question_column, data.context_column and data.answer_column"
        )
    valid = rows.select(good)
    if repaired:
        valid = _mended(valid, [found[i] for i in good])
    return CheckedRows(valid, _rejected(rows, bad), counts, repairs, sum(bool(found[i].repairs) for i in good))


def _mended(rows: Dataset, found: list[_Row]) -> Dataset:
    """The rows with their texts as repaired, and the texts as they came beside them."""
    from datasets import Dataset

    columns = rows[:]
    if "repairs" not in columns:  # prepared rows have been mended, and know their originals
        for name in ORIGINAL:
            texts = columns[name.removeprefix("original_")]
            columns[name] = [text if row.repairs else "" for text, row in zip(texts, found, strict=True)]
        columns["repairs"] = [",".join(row.repairs) for row in found]
    columns |= {name: [row.texts[i] for row in found] for i, name in enumerate(FIELDS)}
    return Dataset.from_dict(columns)


def _rejected(rows: Dataset, bad: list[tuple[int, Verdict]]) -> Dataset:
    from datasets import Dataset, Features, Value

    columns = rows.select([i for i, _ in bad])[:] if bad else {name: [] for name in rows.column_names}
    columns |= {"reason": [reason for _, (reason, _) in bad], "detail": [detail for _, (_, detail) in bad]}
    features = Features({**rows.features, "reason": Value("string"), "detail": Value("string")})
    return Dataset.from_dict(columns, features=features)


def _keep_out(rows: list[_Row], data: DataSection) -> None:
    """Set aside what the external benchmark asks, so that it stays a test."""
    assert data.benchmark is not None  # noqa: S101 - for the type checker
    table = read_file(data.benchmark)
    if data.question_column not in table.column_names:
        raise DataError(
            f"data.benchmark = {str(data.benchmark)!r} has no column {data.question_column}; rename it there"
        )
    asked = {plain_question(str(question)) for question in table[data.question_column].to_pylist() if question}
    for row in rows:
        if row.verdict is None and plain_question(row.texts[0]) in asked:
            row.verdict = ("in_benchmark", f"{data.benchmark.name} asks this question")


def _find_duplicates(rows: list[_Row]) -> None:
    first: dict[tuple[Any, ...], int] = {}
    for i, row in enumerate(rows):
        if row.verdict is None and (earlier := first.setdefault(tuple(row.texts), i)) != i:
            row.verdict = ("duplicate", f"the same as row {earlier}")


def _find_conflicts(rows: list[_Row]) -> None:
    """One question and context with several answers; those that differ in nothing but spelling are duplicates."""
    asked: dict[tuple[Any, ...], list[int]] = {}
    for i, row in enumerate(rows):
        if row.verdict is None:
            asked.setdefault(tuple(row.texts[:2]), []).append(i)
    for group in asked.values():
        if len(group) < 2:
            continue
        meanings: dict[str, int] = {}
        for i in group:
            earlier = meanings.setdefault(normalise(rows[i].texts[2], rows[i].texts[1]), i)
            if earlier != i:
                rows[i].verdict = ("duplicate", f"means the same as row {earlier}")
        if len(meanings) > 1:
            for i in meanings.values():
                other = next(j for j in meanings.values() if j != i)
                rows[i].verdict = ("conflicting_answers", f"row {other} answers the same question otherwise")


def _check_queries(rows: list[_Row], data: DataSection) -> None:
    """Judge the SQL of all rows that nothing is known against, in processes that may hang or die."""
    queries = [row for row in rows if row.verdict is None]
    items = [(row.texts[1], row.texts[2], data.query_timeout, data.repair) for row in queries]
    answers = _map_with_bar(items, seconds_an_item=30.0 + 2 * data.query_timeout)
    for row, answer in zip(queries, answers, strict=True):
        if answer and "reason" in answer:
            row.verdict = (answer["reason"], answer["detail"])
        elif answer:
            row.texts = (row.texts[0], answer["context"], answer["answer"])
            row.repairs = tuple(answer["repairs"])


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


def check_item(item: Sequence[Any]) -> dict[str, Any] | None:
    """What a worker does with one row, (context, gold, timeout, whether to repair).

    Returns:
        None when it is good as it is, `reason` and `detail` when it is not, and `context`, `answer` and `repairs` when
        it is good once repaired.
    """
    context, gold, timeout, mend = item
    mended = repair(context, gold) if mend else Repaired(context, gold)
    verdict = _sql_verdict(mended, timeout, forgiving=not mend)
    if verdict:
        return dict(zip(("reason", "detail"), verdict, strict=True))
    if mended.repairs:
        return {"context": mended.context, "answer": mended.answer, "repairs": mended.repairs}
    return None


def _sql_verdict(row: Repaired, timeout: float, forgiving: bool) -> Verdict | None:
    try:
        schema = parse_schema(row.context)
    except SqlError as error:
        return "context_unparsable", str(error)
    try:
        assert_read_only(parse(row.answer))
    except UnsafeSqlError as error:
        return "not_read_only", str(error)
    except ParseError as error:
        return "answer_unparsable", str(error)
    try:
        database = build_database(schema, forgiving)
        try:
            run_query(database, row.answer, timeout)
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
    if row.conflicts:
        return "types_differ", f"{', '.join(row.conflicts)}: compared with numbers and with text"
    return None


def _killed(_item: Any, reason: str) -> dict[str, str]:
    slug = "timeout" if reason.startswith("took") else "does_not_run"
    return {"reason": slug, "detail": f"checking it failed: {reason}"}


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
