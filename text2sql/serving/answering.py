"""From a question to SQL that passed the guard: candidates, the first that runs, one more try, or what is wrong.

Execution-guided choice after Wang et al. 2018, "Robust Text-to-SQL Generation with Execution-Guided Decoding", applied
to whole candidates.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from text2sql.data.prompt import render_prompt
from text2sql.errors import QueryTimeoutError, SqlError
from text2sql.serving.cells import Cells
from text2sql.sql.guard import Checked
from text2sql.sql.objections import Reason, reason
from text2sql.sql.parse import one_line

Ask = Callable[[str, int], Awaitable[Sequence[str]]]
"""A prompt and a number of candidates → their texts, best first."""
Check = Callable[[str], Awaitable[Checked]]
"""An answer's text → what the guard says; the schema is bound already."""
Run = Callable[[str], Awaitable[Cells]]
"""A checked query → its result. SqlError counts against the query; anything else ends the request."""

_MAX_FAILED_SQL_CHARS = 500
_MAX_FAILED_REASONS = 3


@dataclass(frozen=True)
class Candidate:
    """One answer of the model and its verdict."""

    sql: str
    reasons: tuple[Reason, ...]
    text: str = field(default="", compare=False)
    """What the model said."""

    @property
    def valid(self) -> bool:
        return not self.reasons


@dataclass(frozen=True)
class Answer:
    """What leaves: the first candidate without a fault, or the first of all with its faults."""

    sql: str
    reasons: tuple[Reason, ...]
    candidates: tuple[Candidate, ...]
    """Every candidate that was judged, in the order it was made; equal ones once."""
    result: Cells | None = None
    """Its rows, where a database was given and it is valid."""
    repaired: bool = False
    """Whether the model was asked again with the error."""
    text: str = ""
    """What the model said in the candidate that was taken."""

    @property
    def valid(self) -> bool:
        return not self.reasons

    def to_dict(self) -> dict[str, Any]:
        """For JSON; reasons as objects with code and message."""
        said: dict[str, Any] = {
            "sql": self.sql,
            "valid": self.valid,
            "reasons": [reason._asdict() for reason in self.reasons],
            "repaired": self.repaired,
            "candidates": [
                {"sql": c.sql, "valid": c.valid, "reasons": [reason._asdict() for reason in c.reasons]}
                for c in self.candidates
            ],
        }
        return said | ({"result": self.result.to_dict()} if self.result is not None else {})


async def answer(
    question: str,
    context: str,
    template: str,
    ask: Ask,
    check: Check,
    run: Run | None = None,
    n: int = 1,
    repairs: int = 1,
    texts: Sequence[str] | None = None,
) -> Answer:
    """Ask for `n` candidates, or judge `texts`, and take the first that passes the guard and, with `run`, executes.

    Where none does, the model is asked again, `repairs` times, for one answer, with the first candidate and what is
    wrong with it in the prompt. What `ask` and `run` raise beyond SqlError is the caller's.
    """
    judge = _Judge(check, run)
    if texts is None:
        texts = await ask(render_prompt(template, context, question), n)
    if found := await judge.first(texts):
        return judge.answer(found, repaired=False)
    tries = 0
    while tries < repairs and (failed := judge.blamed(tries)) is not None:
        tries += 1
        if found := await judge.first(await ask(repair_prompt(template, context, question, failed), 1)):
            return judge.answer(found, repaired=True)
    return judge.answer(judge.blamed(0), repaired=tries > 0)


def repair_prompt(template: str, context: str, question: str, failed: Candidate) -> str:
    """The model's own prompt, its schema followed by the failed query and its faults as SQL comments.

    Each is one line of bounded length without control characters, so that no text of theirs can end its comment, start
    a line of its own or look like a section of the template.
    """
    notes = [f"-- failed: {one_line(failed.sql, _MAX_FAILED_SQL_CHARS)}"] if failed.sql.strip() else []
    notes += [f"-- error: {one_line(fault.message, 300)}" for fault in failed.reasons[:_MAX_FAILED_REASONS]]
    return render_prompt(template, "\n".join([context.strip(), *notes]), question)


class _Judge:
    """Remembers every candidate that was judged, and the result of the one that ran."""

    def __init__(self, check: Check, run: Run | None) -> None:
        self._check, self._run = check, run
        self._judged: dict[tuple[str, tuple[Reason, ...]], Candidate] = {}
        """By the query and what the guard said of it: the same query can stand in a good and in a bad answer."""
        self._texts: set[str] = set()
        self._result: Cells | None = None

    async def first(self, texts: Sequence[str]) -> Candidate | None:
        """The first candidate without a fault among those not judged before."""
        for text in texts:
            if text in self._texts:
                continue
            self._texts.add(text)
            checked = await self._check(text)
            if (checked.sql, checked.reasons) in self._judged:
                continue
            candidate = Candidate(checked.sql, checked.reasons or await self._execute(checked.sql), text)
            self._judged[checked.sql, checked.reasons] = candidate
            if candidate.valid:
                return candidate
        return None

    def blamed(self, number: int) -> Candidate | None:
        """The first candidate of all, or the one that the repair of that number made."""
        candidates = list(self._judged.values())
        if not candidates:
            return None
        return candidates[-1] if number else candidates[0]

    def answer(self, candidate: Candidate | None, repaired: bool) -> Answer:
        if candidate is None:
            candidate = Candidate("", (reason("not_sql", "the model gave no answer"),))
        judged = tuple(self._judged.values())
        return Answer(candidate.sql, candidate.reasons, judged, self._result, repaired, candidate.text)

    async def _execute(self, sql: str) -> tuple[Reason, ...]:
        if self._run is None:
            return ()
        try:
            self._result = await self._run(sql)
        except QueryTimeoutError as error:
            return (reason("timed_out", str(error)),)
        except SqlError as error:
            return (reason("does_not_run", str(error)),)
        return ()
