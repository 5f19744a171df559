"""The databases that a gold is judged on: generated ones, chosen by what they tell apart, or files.

After Zhong, Yu, Klein 2020, "Semantic Evaluation for Text-to-SQL with Distilled Test Suites": databases are filled
around the gold's literals, and kept for telling the gold from its neighbours (text2sql.sql.mutate). All bounds are
counts of steps and never of time, so that the same row gets the same databases on any machine.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from sqlglot import exp

from text2sql.errors import ExecutionError
from text2sql.sql.compare import same_result
from text2sql.sql.database import Database, build_database, fill_database, retyped, turn_database
from text2sql.sql.execute import MAX_ROWS, Result, run_query
from text2sql.sql.files import open_database
from text2sql.sql.hints import read_hints
from text2sql.sql.mutate import neighbours
from text2sql.sql.parse import orders_rows
from text2sql.sql.schema import Schema
from text2sql.sql.ties import Ties, read_ties

ATTEMPTS = 4
"""Databases tried for each one that is wanted, at most."""
_BEYOND = 8
"""Databases tried beyond those wanted while some neighbour is not told from the gold."""
_STEPS_A_CHECK = 1_000
_MAX_STEPS = 200_000
"""Of SQLite's virtual machine, for one neighbour on one database."""
_MAX_STEPS_IN_ALL = 10_000_000


@dataclass(frozen=True)
class Gold:
    """A gold query, and how results are compared with its own."""

    sql: str
    tree: exp.Expr
    ordered: bool
    """It sorts its result: then order matters."""
    distinct: bool
    """It says SELECT DISTINCT at top level: then it does not matter that rows of an answer repeat."""

    @classmethod
    def of(cls, sql: str, tree: exp.Expr) -> Gold:
        """The gold of a text and its tree."""
        inner = tree
        while isinstance(inner, exp.Subquery | exp.Paren):
            inner = inner.this
        return cls(sql, tree, orders_rows(tree), bool(isinstance(inner, exp.Select) and inner.args.get("distinct")))


@dataclass(frozen=True)
class Case:
    """A database and what the gold returns on it."""

    name: str
    """The number of a generated database from 1, or the name of a file."""
    database: Database
    results: tuple[Result, ...]
    """One result, or two where the order of reading decides."""
    ordered: bool
    distinct: bool
    tied: bool = False
    """The gold sorts, but rows tie here, and come in another order when read backwards: order does not count."""
    ties: tuple[int, ...] = ()
    """Ends of runs of rows that tie, within which their order does not count."""

    @property
    def trivial(self) -> bool:
        """No rows, or one row of nothing but NULL and 0, as aggregates over no rows give."""
        rows = self.results[0].rows
        return not rows or (len(rows) == 1 and all(cell is None or cell == 0 for cell in rows[0]))

    def agrees(self, predicted: Result) -> bool:
        """Whether a result says what the gold's says."""
        return any(same_result(gold, predicted, self.ordered, self.distinct, self.ties) for gold in self.results)


@dataclass(frozen=True)
class Cases:
    """The cases of one gold."""

    chosen: list[Case]
    vacuous: bool
    """They cannot tell right from wrong: the gold is trivial on every one, or says what all its neighbours say, or
    the same on all of several."""

    def close(self) -> None:
        """Close the databases."""
        for case in self.chosen:
            case.database.close()


def file_cases(gold: Gold, schema: Schema, files: Sequence[Path], timeout: float) -> Cases:
    """A case a database file.

    Raises:
        SqlError: a file cannot be read, or the gold does not run on it.
    """
    cases, rivals = Cases([], vacuous=True), _Rivals(gold, schema)
    try:
        for file in files:
            cases.chosen.append(case := _on_file(gold, file, timeout))
            if not rivals.told_any:
                rivals.told_by(case, first=True)
    except BaseException:
        cases.close()
        raise
    trivial = all(case.trivial for case in cases.chosen)
    return replace(cases, vacuous=trivial or rivals.none_told)


def _on_file(gold: Gold, file: Path, timeout: float) -> Case:
    """Its rows cannot be turned, but they can be read the other way round."""
    database = open_database(file)
    try:
        results = [_run_gold(database, gold, timeout)]
        ties = _ties(database, gold, results[0], timeout)
        database.execute("PRAGMA reverse_unordered_selects = ON")
        turned = _run_gold(database, gold, timeout)
        database.execute("PRAGMA reverse_unordered_selects = OFF")
    except BaseException:
        database.close()
        raise
    if not same_result(results[0], turned, gold.ordered, gold.distinct, ties.ends):
        results.append(turned)
    return Case(file.name, database, tuple(results), gold.ordered, gold.distinct, ties=ties.ends)


def generated_cases(gold: Gold, schema: Schema, context: str, wanted: int, timeout: float) -> Cases:
    """`wanted` filled databases, the same for the same arguments.

    First those on which the gold's answer is defined and not trivial; then, while neighbours are left that none of them
    tells from the gold, others that do take the place of those that told none.

    Raises:
        SqlError: the schema makes no database, or the gold does not run on one.
    """
    chooser = _Chooser(wanted, _Rivals(gold, schema))
    try:
        for case in _filled(gold, schema, context, timeout):
            if chooser.consider(case):
                break
    except BaseException:
        chooser.close()
        raise
    return chooser.cases()


def _filled(gold: Gold, schema: Schema, context: str, timeout: float) -> Iterator[Case]:
    hints = read_hints(gold.tree, schema)
    schema = retyped(schema, hints)
    seed = zlib.crc32(f"{context}\0{gold.sql}".encode()) & ~63  # its last bits choose the kind of filling
    number = 0
    while True:
        database = build_database(schema, forgiving=True)
        try:
            fill_database(database, schema, hints, seed + number)
            result = _run_gold(database, gold, timeout)
            turn_database(database, schema)
            turned = _run_gold(database, gold, timeout)
            ties = _ties(database, gold, turned, timeout)
        except BaseException:
            database.close()
            raise
        number += 1
        yield _generated(gold, str(number), database, result, turned, ties)


def _generated(gold: Gold, name: str, database: Database, result: Result, turned: Result, ties: Ties) -> Case:
    if not ties.cut and same_result(result, turned, gold.ordered, gold.distinct):
        return Case(name, database, (result,), gold.ordered, gold.distinct, ties=ties.ends)
    if not ties.cut and gold.ordered and same_result(result, turned, ordered=False, distinct=gold.distinct):
        return Case(name, database, (result,), False, gold.distinct, tied=True)
    return Case(name, database, (result, turned), gold.ordered, gold.distinct)


def _ties(database: Database, gold: Gold, result: Result, timeout: float) -> Ties:
    return read_ties(database, gold.tree, result, timeout) if gold.ordered else Ties()


def _run_gold(database: Database, gold: Gold, timeout: float) -> Result:
    result = run_query(database, gold.sql, timeout)
    if result.truncated:
        raise ExecutionError(f"the gold returns more than {len(result.rows)} rows")
    return result


class _Rivals:
    """The neighbours of a gold that no database has told from it so far."""

    def __init__(self, gold: Gold, schema: Schema) -> None:
        self.left = neighbours(gold.tree, schema)
        self._tried = self._cut_off = False
        self.told_any = False
        self._steps = _MAX_STEPS_IN_ALL

    def told_by(self, case: Case, first: bool = False) -> int:
        """How many of those left a case tells from the gold; they leave, as do those that are not valid."""
        told, left = 0, []
        self._tried = True
        for place, sql in enumerate(self.left):
            try:
                same = case.agrees(self._run(case.database, sql))
            except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError):
                continue
            except TimeoutError:
                self._cut_off = True
                continue
            told += not same
            if same:
                left.append(sql)
            elif first:
                left += self.left[place + 1 :]
                break
        self.left = left
        self.told_any = self.told_any or told > 0
        return told

    @property
    def none_told(self) -> bool:
        """There are neighbours, and each said what the gold said wherever it was tried."""
        return self._tried and bool(self.left) and not self.told_any and not self._cut_off

    def _run(self, database: Database, sql: str) -> Result:
        """Rows of a neighbour; what it may do is what the gold did, so only its length is bounded.

        Raises:
            TimeoutError: it takes more steps than it may.
        """
        room = min(_MAX_STEPS, self._steps)
        used = 0

        def count() -> bool:
            nonlocal used
            used += _STEPS_A_CHECK
            return used > room

        database.set_progress_handler(count, _STEPS_A_CHECK)
        try:
            with closing(database.execute(sql)) as cursor:
                rows = cursor.fetchmany(MAX_ROWS + 1)
                columns = tuple(column[0] for column in cursor.description)
        except sqlite3.OperationalError:
            if used > room:
                raise TimeoutError from None
            raise
        finally:
            database.set_progress_handler(None, 0)
            self._steps -= used
        return Result(columns, rows, truncated=len(rows) > MAX_ROWS)


class _Chooser:
    def __init__(self, wanted: int, rivals: _Rivals) -> None:
        self._wanted, self._rivals = wanted, rivals
        self._telling: list[Case] = []
        """Each tells the gold from a neighbour that none before it did, or is the first that gives another result."""
        self._idle: list[Case] = []
        self._spare: list[Case] = []
        """On which the gold is trivial, or its answer or the order of it hangs on the order of reading."""
        self._tried = self._beyond = 0
        self._varies = wanted == 1

    def consider(self, case: Case) -> bool:
        """Take a case; whether no more are needed."""
        self._tried += 1
        if len(case.results) > 1 or case.trivial:
            self._spare.append(case)
        elif self._tells_more(case):
            self._telling.append(case)
        else:
            (self._spare if case.tied else self._idle).append(case)
        if len(self._telling) + len(self._idle) < self._wanted:
            return self._tried >= self._wanted * ATTEMPTS
        self._beyond += 1
        told_all = self._varies and not self._rivals.left
        return told_all or len(self._telling) >= self._wanted or self._beyond > _BEYOND

    def _tells_more(self, case: Case) -> bool:
        told = self._rivals.told_by(case)
        earlier = self._telling + self._idle
        if self._varies or not earlier:
            return told > 0
        self._varies = not earlier[0].agrees(case.results[0])
        return told > 0 or self._varies

    def cases(self) -> Cases:
        """Those chosen; the databases of the others are closed."""
        self._spare.sort(key=lambda case: (case.trivial, len(case.results)))
        ranked = self._telling + self._idle + self._spare
        for case in ranked[self._wanted :]:
            case.database.close()
        chosen = ranked[: self._wanted]
        first, *rest = chosen
        blind = all(case.trivial for case in chosen) or self._rivals.none_told
        constant = bool(rest) and all(first.agrees(result) for case in rest for result in case.results[:1])
        named = [replace(case, name=str(number)) for number, case in enumerate(chosen, 1)]
        return Cases(named, blind or constant)

    def close(self) -> None:
        """Close all databases."""
        for case in self._telling + self._idle + self._spare:
            case.database.close()
