"""Evaluations made by hand, small enough to reckon their figures in the head."""

from __future__ import annotations

from dataclasses import replace

from text2sql.evaluation.types import (
    Comparison,
    Difference,
    Evaluation,
    ResultSample,
    RowScore,
    SliceScores,
    SystemScores,
    TestRow,
)

RIGHT = RowScore(exact=True, valid=True, executed=True, vacuous=False, error=None)
EQUIVALENT = RowScore(exact=False, valid=True, executed=True, vacuous=False, error=None)
WRONG = RowScore(exact=False, valid=True, executed=False, vacuous=False, error=None)
INVALID = RowScore(exact=False, valid=False, executed=False, vacuous=False, error="no such column: nam")


def system(name: str, rows: list[RowScore], predictions: list[str] | None = None, **figures: float) -> SystemScores:
    counted = {
        "exact_match": sum(row.exact for row in rows) / len(rows),
        "valid_sql": sum(row.valid for row in rows) / len(rows),
        "execution_accuracy": sum(row.executed for row in rows) / len(rows),
    }
    answers = predictions or [f"SELECT {name}_{index}" for index in range(len(rows))]
    return SystemScores(name, counted | figures, answers, rows, seconds=2.0)


def compared(base: list[RowScore], tuned: list[RowScore]) -> Comparison:
    """Their difference, with an interval and a p-value that make it look sure."""
    pairs = [(after.executed, before.executed) for before, after in zip(base, tuned, strict=True)]
    gained, lost = pairs.count((True, False)), pairs.count((False, True))
    difference = (gained - lost) / len(pairs)
    return Comparison("tuned", "base", difference, (difference - 0.01, difference + 0.01), gained, lost, p_value=0.001)


def evaluation(base: list[RowScore], tuned: list[RowScore], constructs: list[str] | None = None) -> Evaluation:
    count = len(tuned)
    return Evaluation(
        systems=[
            system("base", base, rouge_l=0.5, bleu=31.0, perplexity=3.2, vacuous=0.0),
            system("tuned", tuned, rouge_l=0.9, bleu=88.0, perplexity=1.04, vacuous=0.0),
        ],
        rows=[
            TestRow(
                f"Question {index}?", f"CREATE TABLE t{index} (a INTEGER)", f"SELECT gold_{index}", construct=construct
            )
            for index, construct in enumerate(constructs or [""] * count)
        ],
        comparisons=[compared(base, tuned)],
        model="some/base-model",
        created="2026-11-23T05:00:00+00:00",
    )


NAMES = ("base", "base_few_shot", "tuned", "champion")


def differing(fault: str, predicted: ResultSample, gold: ResultSample | None = None) -> RowScore:
    """An answer that runs and is wrong, with the results that show it."""
    shown = Difference("2", gold or ResultSample(("name", "n"), (("Ada", 1), ("Grace", 2)), 2), predicted)
    return replace(WRONG, fault=fault, difference=shown)


def several(rows: int = 8, names: tuple[str, ...] = NAMES) -> Evaluation:
    """Several systems, one a row better than the one before it; every kind of row, intervals, slices, comparisons."""
    kinds = [
        replace(INVALID, fault="invented_column"),
        differing("wrong_filter", ResultSample(("name",), (), 0)),
        differing("wrong_order", ResultSample(("name", "n"), (("Grace", 2), ("Ada", 1)), 2)),
        differing("wrong_columns", ResultSample(("x",), ((None,), (0.5,)), 100)),
    ]
    systems = []
    for place, name in enumerate(names):
        right = min(rows, 2 * place)
        scores = [RIGHT] * right + [kinds[(i + place) % len(kinds)] for i in range(rows - right)]
        one = system(name, scores, bleu=50.0, perplexity=1.5, vacuous=0.0)
        intervals = {key: (value - 0.05, value + 0.05) for key, value in one.figures.items()}
        systems.append(replace(one, intervals=intervals, source=f"models/{name}"))
    hardness = ["easy" if i % 2 else "hard" for i in range(rows)]
    tests = [
        TestRow(
            f"Question {i}?", "CREATE TABLE t (a INTEGER)", f"SELECT gold_{i}",
            slices={"hardness": (hardness[i],), "construct": ("join", "group") if i % 2 else ("join",)},
        )
        for i in range(rows)
    ]  # fmt: skip
    slices = [
        _sliced(systems, dimension, value, [i for i in range(rows) if value in tests[i].slices[dimension]])
        for dimension, value in (
            ("hardness", "hard"),
            ("hardness", "easy"),
            ("construct", "group"),
            ("construct", "join"),
        )
    ]
    by_name = {one.name: one for one in systems}
    comparisons = [
        replace(compared(by_name[other].rows, by_name["tuned"].rows), other=other)
        for other in names
        if "tuned" in names and other != "tuned"
    ]
    return Evaluation(tests, systems, "some/base-model", "2026-11-23T05:00:00+00:00", comparisons, slices, "abc123")


def _sliced(systems: list[SystemScores], dimension: str, value: str, at: list[int]) -> SliceScores:
    shares = {one.name: sum(one.rows[i].executed for i in at) / len(at) for one in systems}
    return SliceScores(
        dimension,
        value,
        len(at),
        {name: {"execution_accuracy": share} for name, share in shares.items()},
        {name: {"execution_accuracy": (share - 0.1, share + 0.1)} for name, share in shares.items()},
    )
