"""Pairs of gold and prediction judged a second, beside one process that judges one pair at a time.

    PYTHONPATH=. python benchmarks/judging.py [--pairs 1000] [--databases 10] [--processes 2] [--data rows.jsonl]

The claim: 1,000 pairs on 10 databases each take at most 20 s on two cores, the making of the databases included. The
peer works as the usual evaluators do: for each pair and each database file it connects, runs the gold, runs the
prediction, each in an event loop of its own for the sake of a deadline, and compares, until a difference shows. It
is timed on files that lie ready, and with the databases made for each pair, as one that is given only schemas must.
Half of the predictions are golds, half are golds with one thing changed. With --systems, several answers are judged
for each row, as an evaluation of base, tuned and champion does.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

from benchmarks.mutants import mutants, read_rows
from text2sql.errors import SqlError
from text2sql.evaluation.suite import Suite
from text2sql.sql.compare import same_result
from text2sql.sql.execute import Result
from text2sql.sql.parse import orders_rows, parse
from text2sql.sql.workers import map_rows

JUDGE = "text2sql.evaluation.score:judge_item"


def make_items(rows: list[dict[str, str]], systems: int, databases: int) -> list[dict[str, object]]:
    """What the evaluation hands its workers: `systems` predictions for each row that runs."""
    items: list[dict[str, object]] = []
    for number, row in enumerate(rows):
        try:
            wrong = [mutant.sql for mutant in mutants(row["answer"], row["context"])]
        except SqlError:
            continue
        said = [
            wrong[(number + i) % len(wrong)] if (number + i) % 2 and wrong else row["answer"] for i in range(systems)
        ]
        items.append({"context": row["context"], "gold": row["answer"], "predictions": said,
                      "databases": databases, "timeout": 5.0, "accepted": []})  # fmt: skip
    return items


def ours(items: list[dict[str, object]], processes: int) -> tuple[float, float, list[bool]]:
    """Seconds, those that the workers had a CPU, and the verdicts."""
    start, before = time.perf_counter(), _children_seconds()
    answers = map_rows(JUDGE, items, 120.0, lambda _, failure: [{"executed": failure.words}], processes)
    seconds = time.perf_counter() - start
    return seconds, _children_seconds() - before, [score["executed"] for answer in answers for score in answer]


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def peer(items: list[dict[str, object]]) -> tuple[float, float, float, list[bool]]:
    """Seconds for making the databases, for our judging on them and for the peer's, and the peer's verdicts."""
    making = judging = theirs = 0.0
    verdicts = []
    with tempfile.TemporaryDirectory() as folder:
        for item in items:
            context, gold, predictions = str(item["context"]), str(item["gold"]), list(item["predictions"])  # type: ignore[call-overload]
            start = time.perf_counter()
            try:
                suite = Suite(context, gold, int(str(item["databases"])), 5.0)
            except SqlError:
                verdicts += [False] * len(predictions)
                continue
            made = time.perf_counter()
            making += made - start
            with suite:
                for prediction in predictions:
                    suite.judge(prediction)
                judging += time.perf_counter() - made
                files = [Path(folder) / f"{case.name}.sqlite" for case in suite.cases]
                for case, path in zip(suite.cases, files, strict=True):
                    path.unlink(missing_ok=True)
                    with closing(sqlite3.connect(path)) as file:
                        case.database.backup(file)
            start = time.perf_counter()
            verdicts += [_one_pair(files, gold, prediction) for prediction in predictions]
            theirs += time.perf_counter() - start
    return making, judging, theirs, verdicts


def _one_pair(files: list[Path], gold: str, prediction: str) -> bool:
    ordered = orders_rows(parse(gold))
    for path in files:
        results = []
        for sql in (gold, prediction):
            try:
                results.append(asyncio.run(asyncio.wait_for(_query(path, sql), 5.0)))
            except sqlite3.Error:
                return False
        if not same_result(results[0], results[1], ordered):
            return False
    return True


async def _query(path: Path, sql: str) -> Result:
    with closing(sqlite3.connect(path)) as connection:
        cursor = connection.execute(sql)
        return Result(tuple(column[0] for column in cursor.description), cursor.fetchall())


def main() -> None:
    parser = argparse.ArgumentParser(description="Pairs judged a second, beside one pair at a time.")
    parser.add_argument("--pairs", type=int, default=1_000)
    parser.add_argument("--systems", type=int, default=1, help="predictions for each row")
    parser.add_argument("--databases", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--data", type=Path, help="JSON lines with context and answer; generated rows when left out")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--show", type=int, default=0, help="print this many pairs on which the verdicts differ")
    arguments = parser.parse_args()
    rows = read_rows(arguments.data, -(-arguments.pairs // arguments.systems), arguments.seed)
    items = make_items(rows, arguments.systems, arguments.databases)
    pairs = len(items) * arguments.systems
    print(f"{pairs} pairs, {arguments.databases} databases each; load average {os.getloadavg()[0]:.1f}")
    seconds, busy, verdicts = ours(items, arguments.processes)
    again, _, repeated = ours(items, 1)
    making, judging, theirs, other = peer(items)
    whole = making * arguments.systems + theirs
    print(f"{'ours, ' + str(arguments.processes) + ' processes':<46}{seconds:>8.1f} s{pairs / seconds:>9.0f} pairs/s"
          f"   {busy:.1f} s of CPU")  # fmt: skip
    print(f"{'ours, 1 process':<46}{again:>8.1f} s{pairs / again:>9.0f} pairs/s")
    print(f"{'peer, databases made for each pair':<46}{whole:>8.1f} s{pairs / whole:>9.0f} pairs/s"
          f"   ours / peer {whole / seconds:.1f}")  # fmt: skip
    print(f"{'judging alone on made databases, ours':<46}{judging:>8.1f} s{pairs / judging:>9.0f} pairs/s")
    print(f"{'judging alone on ready files, peer':<46}{theirs:>8.1f} s{pairs / theirs:>9.0f} pairs/s"
          f"   ours / peer {theirs / judging:.1f}")  # fmt: skip
    asked = [(item["gold"], text) for item in items for text in list(item["predictions"])]  # type: ignore[call-overload]
    differing = [pair for pair, a, b in zip(asked, verdicts, other, strict=True) if a != b]
    print(f"verdicts equal to the peer's: {pairs - len(differing)} of {pairs}; "
          f"the same with 1 process: {verdicts == repeated}")  # fmt: skip
    for gold, said in differing[: arguments.show]:
        print(f"    gold {gold}\n    said {said}")


if __name__ == "__main__":
    main()
