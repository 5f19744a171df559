"""Every row is valid, mended, or set aside with a reason (text2sql.data.verdict), and the rows together hold no twins.

SQL is judged in processes that may hang or die; here, rows pass by in batches, and what is kept of each is a digest.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from text2sql.config import DataSection
from text2sql.data import FIELDS
from text2sql.data.batches import Batch, TextRows, map_batches, read_batches
from text2sql.data.formats import PROBLEM, read_file
from text2sql.data.prompt import plain_question
from text2sql.data.verdict import Verdict, check_queries, field_verdict
from text2sql.errors import DataError
from text2sql.sql.normalise import normalise

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

ORIGINAL = ("original_context", "original_answer")
"""Columns with the texts of a row as they were before they were repaired; empty in all other rows."""


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
class _Findings:
    """What is known of the rows, by position: a digest of each, and more of those that something was found in."""

    rows: Dataset
    digests: list[bytes] = field(default_factory=list)
    """Of question, context and answer."""
    asked: list[bytes] = field(default_factory=list)
    """Of question and context."""
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    mended: dict[int, dict[str, Any]] = field(default_factory=dict)
    """`context`, `answer` and `repairs` of rows that are good once repaired."""

    def good(self) -> list[int]:
        """Positions of rows that nothing is known against."""
        return [i for i in range(len(self.rows)) if i not in self.verdicts]

    def sql(self, i: int) -> tuple[str, str]:
        """Context and answer, mended where they are."""
        texts = self.mended.get(i) or self.rows[i]
        return texts["context"], texts["answer"]


def check_rows(rows: Dataset, data: DataSection) -> CheckedRows:
    """Sort rows into valid and rejected ones, in their order, and mend what has one remedy (text2sql.data.repair).

    Reasons: not_text, empty_field, nul_byte, too_long, duplicate (question, context and answer of an earlier row),
    context_unparsable, context_does_not_build, answer_unparsable, not_read_only, function_not_allowed, does_not_run,
    timeout; of rows that name a database, database_disagrees; with data.repair also types_differ (a number compared
    with text) and conflicting_answers (one question and context, several answers: none of them can be trusted). Without
    it rows stay as they are, and SQLite's reading of "text" as a string is accepted. in_benchmark: data.benchmark asks
    the same question.

    Raises:
        DataError: there are no rows, or data.benchmark cannot be read.
    """
    if not len(rows):
        raise DataError("there are no rows to check; look at data.path, data.dataset_name and data.subset_fraction")
    found = _Findings(rows)
    _look_at_fields(found, _benchmark_questions(data), data)
    _find_duplicates(found)
    _check_queries(found, data)
    if data.repair:
        _find_duplicates(found)
        _find_conflicts(found)
    return _sorted_out(found, data.repair)


def _look_at_fields(found: _Findings, kept_out: frozenset[str], data: DataSection) -> None:
    problems = [PROBLEM] if PROBLEM in found.rows.column_names else []
    for batch in read_batches(found.rows, [*FIELDS, *problems], "reading rows"):
        given = batch[PROBLEM] if problems else [""] * len(batch["question"])
        for problem, *texts in zip(given, *(batch[name] for name in FIELDS), strict=True):
            verdict = ("not_text", problem) if problem else field_verdict(texts)
            if not verdict and kept_out and plain_question(texts[0]) in kept_out:
                assert data.benchmark is not None  # noqa: S101 - for the type checker
                verdict = ("in_benchmark", f"{data.benchmark.name} asks this question")
            if verdict:
                found.verdicts[len(found.digests)] = verdict
            found.digests.append(b"" if verdict else _digest(texts))
            found.asked.append(b"" if verdict else _digest(texts[:2]))


def _digest(texts: Iterable[str]) -> bytes:
    return blake2b("\0".join(texts).encode(), digest_size=16).digest()


def _benchmark_questions(data: DataSection) -> frozenset[str]:
    """What the external benchmark asks, so that it stays a test."""
    if data.benchmark is None:
        return frozenset()
    table = read_file(data.benchmark, (data.question_column,))
    if data.question_column not in table.column_names:
        raise DataError(
            f"data.benchmark = {str(data.benchmark)!r} has no column {data.question_column}; rename it there"
        )
    asked = table[data.question_column].to_pylist()
    return frozenset(plain_question(str(question)) for question in asked if question)


def _find_duplicates(found: _Findings) -> None:
    first: dict[bytes, int] = {}
    for i in found.good():
        if (earlier := first.setdefault(found.digests[i], i)) != i:
            found.verdicts[i] = ("duplicate", f"the same as row {earlier}")


def _find_conflicts(found: _Findings) -> None:
    """One question and context with several answers; those that differ in nothing but spelling are duplicates."""
    asked: dict[bytes, list[int]] = {}
    for i in found.good():
        asked.setdefault(found.asked[i], []).append(i)
    for group in asked.values():
        if len(group) < 2:
            continue
        meanings: dict[str, int] = {}
        for i in group:
            context, answer = found.sql(i)
            earlier = meanings.setdefault(normalise(answer, context), i)
            if earlier != i:
                found.verdicts[i] = ("duplicate", f"means the same as row {earlier}")
        if len(meanings) > 1:
            for i in meanings.values():
                other = next(j for j in meanings.values() if j != i)
                found.verdicts[i] = ("conflicting_answers", f"row {other} answers the same question otherwise")


def _check_queries(found: _Findings, data: DataSection) -> None:
    """Judge the SQL of all rows that nothing is known against."""
    good = found.good()
    more = [name for name in ("accepted", "database") if name in found.rows.column_names]
    texts = TextRows(found.rows, ("context", "answer", *more), good)
    answers = check_queries(texts, data.query_timeout, data.repair, "checking rows", data.databases)
    questions = TextRows(found.rows, ("question",))
    for i, answer in zip(good, answers, strict=True):
        if answer and "reason" in answer:
            found.verdicts[i] = (answer["reason"], answer["detail"])
        elif answer:
            found.mended[i] = answer
            asked = (*questions[i], answer["context"])
            found.asked[i], found.digests[i] = _digest(asked), _digest((*asked, answer["answer"]))


def _sorted_out(found: _Findings, repaired: bool) -> CheckedRows:
    good, total = found.good(), len(found.rows)
    counts = dict(Counter(reason for reason, _ in found.verdicts.values()).most_common())
    mended = [found.mended[i]["repairs"] for i in good if i in found.mended]
    repairs = dict(Counter(kind for kinds in mended for kind in kinds).most_common())
    logger.info("%d of %d rows are valid; set aside: %s", len(good), total, counts or "none")
    rows = found.rows.remove_columns([PROBLEM] if PROBLEM in found.rows.column_names else [])
    valid = rows.select(good)
    if repaired:
        valid = _mended(valid, [found.mended.get(i) for i in good])
    bad = sorted(found.verdicts)
    return CheckedRows(valid, _rejected(rows, bad, found.verdicts), counts, repairs, len(mended))


def _mended(rows: Dataset, mended: list[dict[str, Any] | None]) -> Dataset:
    """The rows with their texts as repaired, and the texts as they came beside them."""
    before = "repairs" in rows.column_names  # prepared rows have been mended, and know their originals

    def texts(batch: Batch, positions: list[int]) -> Batch:
        found = [mended[i] for i in positions]
        made: Batch = {}
        for name in ("context", "answer"):
            made[name] = [new[name] if new else old for new, old in zip(found, batch[name], strict=True)]
            if not before:
                made[f"original_{name}"] = [o if new else "" for new, o in zip(found, batch[name], strict=True)]
        if not before:
            made["repairs"] = [",".join(new["repairs"]) if new else "" for new in found]
        return made

    return map_batches(rows, texts, "writing rows", positions=True)


def _rejected(rows: Dataset, bad: list[int], verdicts: dict[int, Verdict]) -> Dataset:
    def reasons(_: Batch, positions: list[int]) -> Batch:
        found = [verdicts[bad[i]] for i in positions]
        return {"reason": [reason for reason, _ in found], "detail": [detail for _, detail in found]}

    return map_batches(rows.select(bad), reasons, "writing rows", positions=True)
