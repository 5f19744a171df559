"""Our verdicts beside those of the official test-suite evaluator, on the same databases.

    PYTHONPATH=. python benchmarks/official_evaluator.py CHECKOUT [--data rows.jsonl] [--rows 300] [--databases 5]

CHECKOUT is a folder with exec_eval.py and parse.py of github.com/taoyds/test-suite-sql-eval; both need sqlparse, tqdm.
A row's databases are saved to files for it. The predictions: the gold, the gold in other spellings, its mutants
(benchmarks/mutants.py) and queries of other rows. It is asked twice: as the leaderboards do, with DISTINCT taken out of
both queries, and with --keep_distinct. docs/evaluation.md explains every kind of difference.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import sqlite3
import sys
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlglot import exp

from benchmarks.mutants import mutants, read_rows
from text2sql.errors import SqlError
from text2sql.evaluation.suite import Suite
from text2sql.sql.parse import parse
from text2sql.sql.workers import process_count

DISTINCT = "repeated rows: DISTINCT in one of the queries"


def predictions(row: dict[str, str], others: list[str], rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Kind and text of what is judged against a row's gold."""
    gold = row["answer"]
    wrong = mutants(gold, row["context"])
    made = {gold: "gold"}
    for other in (f"{gold.rstrip(';')} ;", gold.replace(" AS ", " "), _spelt_out(gold), f"SELECT * FROM ({gold})"):  # noqa: S608
        made.setdefault(other, "spelling")
    for mutant in rng.sample(wrong, min(count, len(wrong))):
        made.setdefault(mutant.sql, "DISTINCT mutant" if mutant.kind.startswith("distinct") else "other mutant")
    for other in others:
        made.setdefault(other, "other row")
    return [(kind, text) for text, kind in made.items()]


def _spelt_out(gold: str) -> str:
    """BETWEEN as two comparisons, and literals before columns."""

    def turned(node: exp.Expr) -> exp.Expr:
        if isinstance(node, exp.Between):
            low, high = node.args["low"], node.args["high"]
            return exp.paren(
                exp.and_(exp.GTE(this=node.this, expression=low), exp.LTE(this=node.this, expression=high))
            )
        if isinstance(node, exp.GT) and isinstance(node.expression, exp.Literal):
            return exp.LT(this=node.expression, expression=node.this)
        return node

    return parse(gold).transform(turned).sql("sqlite", pretty=True)


def compare(item: dict[str, Any]) -> list[dict[str, Any]]:
    """In a worker: both verdicts on every prediction for one row."""
    sys.path.insert(0, item["checkout"])
    from exec_eval import eval_exec_match

    row, rng = item["row"], random.Random(item["seed"])
    try:
        with Suite(row["context"], row["answer"], item["databases"], 5.0) as suite, tempfile.TemporaryDirectory() as at:
            for case in suite.cases:
                with closing(sqlite3.connect(Path(at) / f"{case.name}.sqlite")) as file:
                    case.database.backup(file)
            found = []
            for kind, text in predictions(row, item["others"], rng, item["mutants"]):
                ours = suite.judge(text)
                theirs = {}
                for keep in (False, True):
                    with contextlib.redirect_stdout(io.StringIO()):
                        theirs[keep] = bool(eval_exec_match(f"{at}/1.sqlite", text, row["answer"], False, keep, False))
                found.append({
                    "kind": kind, "gold": row["answer"], "text": text, "ours": ours.executed, "stripped": theirs[False],
                    "kept": theirs[True], "reason": _reason(suite, row["answer"], text, ours, theirs),
                })  # fmt: skip
            return found
    except SqlError:
        return []


def _reason(suite: Suite, gold: str, text: str, ours: Any, theirs: dict[bool, bool]) -> str:
    """What a difference in verdict comes from, by the first rule that fits."""
    if ours.executed == theirs[False] == theirs[True]:
        return ""
    if theirs[False] != theirs[True]:
        return DISTINCT
    if suite.vacuous:
        return "vacuous row: only the gold itself is credited"
    if ours.error:
        return f"not valid: {' '.join(ours.error.split()[:3])}"
    if any(len(case.results) > 1 for case in suite.cases):
        return "the gold's answer hangs on the order of reading: both are accepted"
    if any(case.tied for case in suite.cases):
        return "rows tie in ORDER BY: any order of them is accepted"
    if "order by" in gold.lower() and not suite.cases[0].ordered:
        return "ORDER BY in a subquery of the gold does not order the result"
    if "distinct" in f"{gold}{text}".lower():
        return DISTINCT
    return "other (numbers within tolerance, columns of empty results)"


def main() -> None:
    parser = argparse.ArgumentParser(description="Agreement with the official test-suite evaluator.")
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--data", type=Path, help="JSON lines with context and answer; generated rows when left out")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--databases", type=int, default=5)
    parser.add_argument("--mutants", type=int, default=6, help="mutants a row")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--show", type=int, default=2, help="examples of each kind of difference")
    arguments = parser.parse_args()
    rows = read_rows(arguments.data, arguments.rows, arguments.seed)
    by_context: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        by_context[row["context"]].append(row["answer"])
    rng = random.Random(arguments.seed)
    items = [
        {
            "checkout": str(arguments.checkout.resolve()), "row": row, "databases": arguments.databases, "seed": number,
            "mutants": arguments.mutants,
            "others": [q for q in by_context[row["context"]] if q != row["answer"]][:3]
            + [rng.choice(rows)["answer"] for _ in range(2)],
        }
        for number, row in enumerate(rows)
    ]  # fmt: skip
    with ProcessPoolExecutor(process_count()) as pool:  # not map_rows: its workers may not write files
        answers = list(pool.map(compare, items, chunksize=4))
    pairs = [line for answer in answers for line in answer]
    print(f"{len(pairs)} pairs of {sum(bool(answer) for answer in answers)} golds")
    kinds = Counter(line["kind"] for line in pairs)
    for name, key in (("DISTINCT taken out", "stripped"), ("--keep_distinct", "kept")):
        same = sum(line["ours"] == line[key] for line in pairs)
        print(f"\n{name}: {same} of {len(pairs)} verdicts equal, {same / max(len(pairs), 1):.2%}")
        for kind, count in kinds.items():
            alike = sum(line["ours"] == line[key] for line in pairs if line["kind"] == kind)
            print(f"  {kind:<16}{alike:>6} of {count:<6}{alike / count:>8.2%}")
        different = [line for line in pairs if line["ours"] != line[key]]
        for reason, count in Counter((line["reason"], line["ours"]) for line in different).most_common():
            print(f"  {count:>5}  {'we credit' if reason[1] else 'they credit':<12} {reason[0]}")
            for line in [d for d in different if (d["reason"], d["ours"]) == reason][: arguments.show]:
                print(f"         gold {line['gold']}\n         said {line['text']}")


if __name__ == "__main__":
    main()
