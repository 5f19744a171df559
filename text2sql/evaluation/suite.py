"""The databases on which a prediction must give the gold's result.

After Zhong, Yu, Klein 2020, "Semantic Evaluation for Text-to-SQL with Distilled Test Suites", for rows that have a
schema and no data: databases are filled around the gold's literals, and kept when the gold's answer on them is defined
(it does not hang on the order in which rows happen to be read) and not trivial.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from types import TracebackType

from sqlglot import exp

from text2sql.errors import ExecutionError, SqlError
from text2sql.evaluation.types import RowScore
from text2sql.sql.compare import same_result
from text2sql.sql.database import Database, build_database, fill_database, retyped, turn_database
from text2sql.sql.execute import Result, run_query
from text2sql.sql.hints import Hints, column_names, is_quoted_text, literal, read_hints
from text2sql.sql.normalise import normalise
from text2sql.sql.parse import assert_read_only, orders_rows, parse
from text2sql.sql.schema import Schema, parse_schema

_ATTEMPTS = 4
"""Databases tried for each one that is wanted."""
GOLD_RUNS = 2 * _ATTEMPTS
"""How often the gold is run, at most, for each database that is wanted."""


@dataclass(frozen=True)
class Case:
    """A filled database and what the gold returns on it: one result, or two where the order of reading decides."""

    database: Database
    results: tuple[Result, ...]

    @property
    def trivial(self) -> bool:
        """No rows, or one row of nothing but NULL and 0, as aggregates over no rows give."""
        rows = self.results[0].rows
        return not rows or (len(rows) == 1 and all(cell is None or cell == 0 for cell in rows[0]))


class Suite:
    """The databases of one row, ready to judge any number of predictions."""

    def __init__(self, context: str, gold: str, databases: int, timeout: float) -> None:
        """Fill and choose the databases; the same for the same arguments.

        Raises:
            SqlError: context or gold cannot be used.
        """
        tree = parse(gold)
        assert_read_only(tree)
        self.ordered = orders_rows(tree)
        self._context, self._gold, self._timeout = context, gold, timeout
        self._schema = parse_schema(context)
        self._normal_gold = normalise(gold, context)
        self.cases = self._choose(read_hints(tree, self._schema), databases)

    def __enter__(self) -> Suite:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for case in self.cases:
            case.database.close()

    @property
    def vacuous(self) -> bool:
        """Whether the gold is trivial on every database, or says the same on all of several."""
        first, *rest = self.cases
        if all(case.trivial for case in self.cases):
            return True
        return bool(rest) and all(same_result(first.results[0], case.results[0], self.ordered) for case in rest)

    def judge(self, prediction: str) -> RowScore:
        """The verdict on one prediction; never raises for what a prediction says."""
        try:
            tree = parse(prediction)
            assert_read_only(tree)
            _refuse_quoted_columns(tree, self._schema)
            same = self._runs_alike(prediction)
        except SqlError as error:
            return RowScore(exact=False, valid=False, executed=False, vacuous=self.vacuous, error=str(error))
        # The databases have the last word, so that a mistake of the normaliser credits nobody; but where the gold's own
        # result is not defined, another plan for the same query may well return another one.
        exact = self._is_exact(prediction) and (same or any(len(case.results) > 1 for case in self.cases))
        executed = exact or (same and not self.vacuous)
        return RowScore(exact=exact, valid=True, executed=executed, vacuous=self.vacuous, error=None)

    def _is_exact(self, prediction: str) -> bool:
        try:
            return normalise(prediction, self._context) == self._normal_gold
        except SqlError:
            return False

    def _runs_alike(self, prediction: str) -> bool:
        """Raises SqlError when the prediction does not run on one of the databases."""
        same = True
        for case in self.cases:
            predicted = run_query(case.database, prediction, self._timeout)
            same = same and any(same_result(gold, predicted, self.ordered) for gold in case.results)
            if not same:
                break  # it ran on one, so it is valid: the schemas are the same
        return same

    def _choose(self, hints: Hints, wanted: int) -> list[Case]:
        schema = retyped(self._schema, hints)
        seed = zlib.crc32(f"{self._context}\0{self._gold}".encode()) & ~63  # its last bits choose the kind of filling
        chosen: list[Case] = []
        spare: list[Case] = []
        for attempt in range(wanted * _ATTEMPTS):
            case = self._case(schema, hints, seed + attempt)
            (chosen if len(case.results) == 1 and not case.trivial else spare).append(case)
            if len(chosen) == wanted:
                break
        spare.sort(key=lambda case: (case.trivial, len(case.results)))
        missing = wanted - len(chosen)
        for case in spare[missing:]:
            case.database.close()
        return chosen + spare[:missing]

    def _case(self, schema: Schema, hints: Hints, seed: int) -> Case:
        database = build_database(schema, forgiving=True)
        fill_database(database, schema, hints, seed)
        result = run_query(database, self._gold, self._timeout)
        if result.truncated:
            raise ExecutionError(f"the gold returns more than {len(result.rows)} rows")
        turn_database(database, schema)
        turned = run_query(database, self._gold, self._timeout)
        return Case(database, (result,) if same_result(result, turned, self.ordered) else (result, turned))


def judge_row(context: str, gold: str, predictions: list[str], databases: int, timeout: float) -> list[RowScore]:
    """Verdicts on several predictions for one row, in their order; equal predictions are judged once.

    A row whose gold cannot be judged is vacuous: only a prediction equal to the gold is credited.
    """
    try:
        suite = Suite(context, gold, databases, timeout)
    except SqlError as error:
        return [_without_suite(context, gold, prediction, timeout, error) for prediction in predictions]
    with suite:
        verdicts: dict[str, RowScore] = {}
        for prediction in predictions:
            if prediction not in verdicts:
                verdicts[prediction] = suite.judge(prediction)
        return [verdicts[prediction] for prediction in predictions]


def _without_suite(context: str, gold: str, prediction: str, timeout: float, reason: SqlError) -> RowScore:
    try:
        exact = normalise(prediction, context) == normalise(gold, context)
        assert_read_only(parse(prediction))
        database = build_database(parse_schema(context), forgiving=True)
        try:
            run_query(database, prediction, timeout)
        finally:
            database.close()
    except SqlError as error:
        return RowScore(exact=False, valid=False, executed=False, vacuous=True, error=str(error))
    return RowScore(exact=exact, valid=True, executed=exact, vacuous=True, error=f"gold not judged: {reason}")


def _refuse_quoted_columns(tree: exp.Expr, schema: Schema) -> None:
    """A misspelt column in double quotes is an error, though SQLite reads it as a string.

    Text in double quotes is let pass where strings belong: opposite a column, or among several arguments.

    Raises:
        ExecutionError: naming the text.
    """
    names = column_names(tree, schema)
    for column in tree.find_all(exp.Column):
        if is_quoted_text(column, names) and _stands_for_a_column(column, names):
            raise ExecutionError(f"no such column: {column.name}")


def _stands_for_a_column(text: exp.Expr, names: frozenset[str]) -> bool:
    """Whether a string would make no sense there: selected, sorted or grouped by, aggregated, opposite a literal."""
    node, parent = text, text.parent
    while isinstance(parent, exp.Paren | exp.Distinct):
        node, parent = parent, parent.parent
    if isinstance(parent, exp.Select | exp.Alias | exp.Ordered | exp.Group | exp.Distinct):
        return True
    if isinstance(parent, exp.AggFunc):
        return node is parent.this
    if isinstance(parent, exp.Between | exp.In) and node is parent.this:
        opposite = [parent.args.get("low"), parent.args.get("high"), *parent.expressions]
    elif isinstance(parent, exp.Binary):
        opposite = [parent.args["expression"] if node is parent.this else parent.this]
    else:
        return False
    found = [other for other in opposite if other is not None]
    return bool(found) and all(isinstance(o, exp.Null) or literal(o, names) is not None for o in found)
