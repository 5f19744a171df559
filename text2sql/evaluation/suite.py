"""Whether a prediction means what its gold means: on every database of a row it must give the gold's result."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from sqlglot import exp

from text2sql.data.databases import database_files
from text2sql.errors import ExecutionError, SqlError
from text2sql.evaluation.cases import Gold, file_cases, generated_cases
from text2sql.evaluation.types import Cell, Difference, ResultSample, RowScore
from text2sql.sql.database import build_database
from text2sql.sql.execute import Result, run_query
from text2sql.sql.names import Invented, adheres_to, invented_names
from text2sql.sql.normalise import canonical
from text2sql.sql.parse import assert_read_only, parse
from text2sql.sql.schema import Schema, parse_schema

_SHOWN_ROWS, _SHOWN_COLUMNS, _SHOWN_CHARS = 5, 8, 80
_NAMED_COLUMNS = 100
"""So that a report can tell how many it does not show."""


class Suite:
    """The databases of one gold, ready to judge any number of predictions."""

    def __init__(
        self, context: str, gold: str, databases: int, timeout: float, database: str | Path | None = None
    ) -> None:
        """Fill and choose the databases, or open those that are named; the same for the same arguments.

        Raises:
            SqlError: context, gold or the file cannot be used.
        """
        tree = parse(gold)
        assert_read_only(tree)
        self._schema = parse_schema(context)
        self._timeout = timeout
        self._reader = _Reader(gold, self._schema)
        wanted = Gold.of(gold, tree)
        if database:
            made = file_cases(wanted, self._schema, database_files(Path(database)), timeout)
        else:
            made = generated_cases(wanted, self._schema, context, databases, timeout)
        self.cases, self.vacuous = made.chosen, made.vacuous

    def __enter__(self) -> Suite:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for case in self.cases:
            case.database.close()

    def judge(self, prediction: str) -> RowScore:
        """The verdict on one prediction; never raises for what a prediction says."""
        adheres = False
        try:
            tree = parse(prediction)
            assert_read_only(tree)
            invented = invented_names(tree, self._schema)
            adheres = not invented
            _refuse_misread(invented)
            difference = self.difference(prediction)
        except SqlError as error:
            bare = self._reader.reads_alike(prediction, values=False)
            return RowScore(False, False, False, self.vacuous, str(error), bare, adheres)
        # The databases have the last word, so that a mistake of the normaliser credits nobody; but where the gold's own
        # result is not defined, another plan for the same query may well return another one.
        undefined = any(len(case.results) > 1 for case in self.cases)
        may_be_exact = difference is None or undefined
        alike = self._reader.reads_alike(prediction, may_be_exact, tree)
        exact = may_be_exact and alike
        executed = exact or (difference is None and not self.vacuous)
        return RowScore(
            exact=exact,
            valid=True,
            executed=executed,
            vacuous=self.vacuous,
            exact_without_values=alike or (may_be_exact and self._reader.reads_alike(prediction, values=False)),
            adheres=adheres,
            difference=None if executed else difference,
        )

    def difference(self, prediction: str) -> Difference | None:
        """The first database on which a prediction says something else; None where it says the same on all.

        Raises:
            SqlError: it does not run on one of those looked at; having run on one it is valid, for all have one schema.
        """
        for case in self.cases:
            predicted = run_query(case.database, prediction, self._timeout)
            if not case.agrees(predicted):
                return Difference(case.name, _sample(case.results[0]), _sample(predicted))
        return None


class _Reader:
    """Compares what queries say, as texts."""

    def __init__(self, gold: str, schema: Schema) -> None:
        self._gold, self._schema = gold, schema
        self._canonical = functools.cache(self._normalised)

    def reads_alike(self, prediction: str, values: bool = True, tree: exp.Expr | None = None) -> bool:
        """Whether a prediction equals the gold once both are normalised, with literals or with these masked.

        Its tree saves parsing it again, and is used up.
        """
        if prediction == self._gold:
            return True
        try:
            return self._normalised(prediction, values, tree) == self._canonical(self._gold, values)
        except SqlError:
            return False

    def _normalised(self, sql: str, values: bool, tree: exp.Expr | None = None) -> str:
        if tree is None:
            tree = parse(sql)
            assert_read_only(tree)
        return canonical(tree, self._schema, values)


def judge_row(
    context: str,
    gold: str,
    predictions: list[str],
    databases: int,
    timeout: float,
    database: str | None = None,
    accepted: Sequence[str] = (),
) -> list[RowScore]:
    """Verdicts on several predictions for one row, in their order; equal predictions are judged once.

    Each gold has a suite of its own, and a prediction is right when it is right by one of them. A row of whose golds
    none can be judged is vacuous: only a prediction equal to the gold is credited.

    Args:
        database: a SQLite file, or a folder of *.sqlite; answers are then compared on all of these, and nothing is
            generated.
        accepted: golds that are as right as the first.
    """
    distinct = list(dict.fromkeys(predictions))
    verdicts: list[list[RowScore]] = []
    reasons: list[SqlError] = []
    for one in dict.fromkeys([gold, *accepted]):
        try:
            suite = Suite(context, one, databases, timeout, database)
        except SqlError as error:
            reasons.append(error)
            continue
        with suite:
            verdicts.append([suite.judge(prediction) for prediction in distinct])
    if not verdicts:
        verdicts.append([_without_suite(context, gold, text, timeout, reasons[0]) for text in distinct])
    best = {text: _best(list(scores)) for text, scores in zip(distinct, zip(*verdicts, strict=True), strict=True)}
    return [best[prediction] for prediction in predictions]


def _best(scores: list[RowScore]) -> RowScore:
    """One verdict of those by several golds: right where one of them says so, vacuous where all are."""
    chosen = max(scores, key=lambda score: (score.executed, score.exact, score.valid, not score.vacuous))
    return replace(
        chosen,
        vacuous=all(score.vacuous for score in scores),
        exact_without_values=any(score.exact_without_values for score in scores),
    )


def _without_suite(context: str, gold: str, prediction: str, timeout: float, reason: SqlError) -> RowScore:
    adheres = False
    try:
        assert_read_only(parse(prediction))
        schema = parse_schema(context)
        adheres = adheres_to(prediction, context)
        database = build_database(schema, forgiving=True)
        try:
            run_query(database, prediction, timeout)
        finally:
            database.close()
    except SqlError as error:
        return RowScore(False, False, False, True, str(error), False, adheres)
    reader = _Reader(gold, schema)
    exact = reader.reads_alike(prediction)
    bare = exact or reader.reads_alike(prediction, values=False)
    return RowScore(exact, True, exact, True, f"gold not judged: {reason}", bare, adheres)


def _sample(result: Result) -> ResultSample:
    rows = tuple(tuple(map(_cell, row[:_SHOWN_COLUMNS])) for row in result.rows[:_SHOWN_ROWS])
    columns = tuple(str(_cell(column)) for column in result.columns[:_NAMED_COLUMNS])
    return ResultSample(columns, rows, len(result.rows))


def _cell(value: object) -> Cell:
    """As JSON can hold it, and not too long to be shown."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


def _refuse_misread(invented: list[Invented]) -> None:
    """A misspelt column in double quotes is an error, though SQLite reads it as a string.

    Raises:
        ExecutionError: naming the text.
    """
    for name in invented:
        if name.is_read_as_text:
            raise ExecutionError(f"no such column: {name.name}")
