"""How many wrong queries the judge finds: golds with one thing changed, judged against the gold.

    PYTHONPATH=. python benchmarks/mutants.py [--rows 300] [--data rows.jsonl] [--databases 5] [--show 40]

The suite chooses its databases by neighbours of the gold that text2sql.sql.mutate makes from the tree. The mutants here
are made otherwise, by exchanging tokens of the text, so that the figure is no echo of the choice. The peer is what most
projects do: one database, random rows of the declared types, and one comparison of results.

A mutant that reads the same once normalised is no mutant. Some of the others mean what the gold means; where a rule
proves it (the list is `_proof`) they are counted apart, and the share is given with them and without.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sqlglot import exp

from text2sql.errors import SqlError
from text2sql.sql.compare import same_result
from text2sql.sql.database import build_database, quote
from text2sql.sql.execute import run_query
from text2sql.sql.normalise import normalise
from text2sql.sql.parse import orders_rows, parse
from text2sql.sql.schema import Column, Schema, parse_schema
from text2sql.sql.workers import map_rows

TOKEN = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|[A-Za-z_][\w]*|\d+(?:\.\d+)?|<>|!=|<=|>=|[^\s]|\s+")
OPERATORS = {"=": ("<>", ">"), "<>": ("=",), "!=": ("=",), "<": ("<=", ">", "="), ">": (">=", "<", "="),
             "<=": ("<", ">=", "="), ">=": (">", "<=", "="), "+": ("-",), "-": ("+",), "/": ("*",)}  # fmt: skip
WORDS = {"AND": "OR", "OR": "AND", "UNION": "INTERSECT", "INTERSECT": "UNION", "EXCEPT": "INTERSECT", "DESC": "ASC",
         "ASC": "DESC", "LIKE": "="}  # fmt: skip
KINDS = {"AND": "connective", "OR": "connective", "UNION": "set operation", "INTERSECT": "set operation",
         "EXCEPT": "set operation", "DESC": "order", "ASC": "order", "LIKE": "operator"}  # fmt: skip
AGGREGATES = ("MIN", "MAX", "SUM", "AVG", "COUNT")
NAMES = ("ada", "bob", "cyd", "dan", "eve", "fay", "gus", "hal", "ivy", "jon", "kim", "lee", "meg", "ned", "oda", "pam")
PEER_ROWS = 50
CLAUSES = ("JOIN", "WHERE", "GROUP", "ORDER", "SELECT")
EXACT = 100_000
"""Numbers from here on are not written as 1e+05."""


@dataclass(frozen=True)
class Mutant:
    """A gold with one thing changed."""

    kind: str
    sql: str


def mutants(gold: str, context: str) -> list[Mutant]:
    """Every mutant that runs on the schema and does not read as the gold once normalised, in the order of the text."""
    schema = parse_schema(context)
    plain = normalise(gold, context)
    database = build_database(schema, forgiving=True)
    found: dict[str, Mutant] = {}
    try:
        run_query(database, gold, 5.0)
        for kind, text in _changed([match.group() for match in TOKEN.finditer(gold)], schema):
            try:
                normal = normalise(text, context)
                run_query(database, text, 5.0)
            except SqlError:
                continue
            if normal != plain:
                found.setdefault(normal, Mutant(kind, text))
    finally:
        database.close()
    return list(found.values())


def _changed(tokens: list[str], schema: Schema) -> Iterator[tuple[str, str]]:
    """Kind and text of each change; many are no SQL."""
    columns = _alike_columns(schema)
    solid = [(place, token) for place, token in enumerate(tokens) if not token.isspace()]
    joined = False
    for i, (place, token) in enumerate(solid):
        last = solid[i - 1][1].upper() if i else ""
        after = solid[i + 1][1].upper() if i + 1 < len(solid) else ""
        joined = token.upper() == "ON" or (joined and token.upper() not in CLAUSES)
        for kind, other in chain(
            _other_keywords(token.upper(), last, after), _other_operands(token, last, after, columns, tokens)
        ):
            if joined and kind in ("operator", "column"):
                kind = "join key"  # noqa: PLW2901
            yield kind, "".join([*tokens[:place], other, *tokens[place + 1 :]])
        if token.upper() == "LIMIT":
            yield "limit", "".join(tokens[:place])


def _other_keywords(word: str, last: str, after: str) -> Iterator[tuple[str, str]]:
    """Kind and what to put in the place of a keyword or operator."""
    yield from (("operator", other) for other in OPERATORS.get(word, ()))
    if word in WORDS:
        yield KINDS[word], WORDS[word]
    elif word in AGGREGATES and after == "(":
        yield from (("aggregate", other) for other in AGGREGATES if other != word)
    elif word == "DISTINCT":
        yield "distinct dropped" if last == "SELECT" else "distinct", ""
    elif word == "SELECT" and after not in ("DISTINCT", *AGGREGATES) and last != "(":
        yield "distinct", "SELECT DISTINCT"
    elif word == "(" and last in ("COUNT", "SUM", "AVG") and after not in ("*", "DISTINCT"):
        yield "distinct", "(DISTINCT "
    elif word == "NOT":
        yield "operator", ""


def _other_operands(
    token: str, last: str, after: str, columns: dict[str, list[str]], tokens: list[str]
) -> Iterator[tuple[str, str]]:
    """Kind and what to put in the place of a literal or a column."""
    if token[0] == "'" and len(token) > len("''"):
        yield from (("literal", other) for other in _other_texts(token, tokens))
    elif token[0].isdigit():
        step = 1 if "." not in token else 0.1
        for number in (float(token) + step, max(float(token) - step, 0)):
            yield "limit" if last == "LIMIT" else "literal", f"{number:g}" if number < EXACT else f"{number:.0f}"
    elif last != "AS" and after != "(":
        yield from (("column", other) for other in columns.get(token.lower().strip('"'), ()))


def _other_texts(token: str, tokens: list[str]) -> Iterator[str]:
    body = token[1:-1]
    yield f"'{body}s'"
    yield f"'{body[:-1]}'"
    if "%" not in body:
        yield f"'{body.swapcase()}'"
    else:
        yield f"'{body.lstrip('%')}'"
        yield f"'{body.rstrip('%')}'"
    yield from (other for other in dict.fromkeys(tokens) if other[0] == "'" and other != token)


def _alike_columns(schema: Schema) -> dict[str, list[str]]:
    """Lower-case column → columns of the same kind, of any table: whether they can stand there shows when it runs."""
    by_kind: dict[bool, list[Column]] = defaultdict(list)
    for table in schema.tables:
        for column in table.columns:
            by_kind[column.numeric].append(column)
    return {
        column.name.lower(): list(dict.fromkeys(o.name for o in kin if o.name.lower() != column.name.lower()))
        for kin in by_kind.values()
        for column in kin
    }


def _proof(gold: str, mutant: Mutant) -> str | None:
    """The rule by which a mutant means what the gold means, or None."""
    one, other = parse(gold), parse(mutant.sql)
    for rule, simplify in _RULES.items():
        if simplify(one.copy()).sql("sqlite") == simplify(other.copy()).sql("sqlite"):
            return rule
    return None


def _without_idle_distinct(tree: exp.Expr) -> exp.Expr:
    """DISTINCT in IN (SELECT …), EXISTS, in the branches of a set operation, over one aggregate, in MIN and MAX."""
    for select in tree.find_all(exp.Select):
        above = select.parent
        while isinstance(above, exp.Subquery | exp.Paren):
            above = above.parent
        single = not select.args.get("group") and all(p.find(exp.AggFunc) for p in select.expressions)
        in_set = isinstance(above, exp.SetOperation) and above.args.get("distinct") is not False
        idle = isinstance(above, exp.In | exp.Exists) and not select.args.get("limit")
        if (single or in_set or idle) and not select.args.get("limit"):
            select.set("distinct", None)
        keys = {k.sql() for k in select.args["group"].expressions} if select.args.get("group") else set()
        if keys and keys <= {p.unalias().sql() for p in select.expressions}:
            select.set("distinct", None)
    for extreme in tree.find_all(exp.Min, exp.Max):
        if isinstance(extreme.this, exp.Distinct) and len(extreme.this.expressions) == 1:
            extreme.set("this", extreme.this.expressions[0])
    return tree


def _without_idle_order(tree: exp.Expr) -> exp.Expr:
    """LIMIT of a single row, ORDER BY of a single row, COUNT of a literal."""
    for select in tree.find_all(exp.Select):
        single = not select.args.get("group") and all(p.find(exp.AggFunc) for p in select.expressions)
        limit = select.args.get("limit")
        if single and (limit is None or str(limit.expression) not in ("0", "'0'")):
            select.set("limit", None)
            select.set("order", None)
    return tree


def _literal_counts(tree: exp.Expr) -> exp.Expr:
    """COUNT of a join key is COUNT(*) and so on cannot be proven without constraints; COUNT(*) > 0 of a group can."""
    for having in tree.find_all(exp.Having):
        for comparison in list(having.find_all(exp.GTE, exp.GT)):
            count, bound = comparison.this, comparison.expression
            if isinstance(count, exp.Count) and isinstance(count.this, exp.Star) and isinstance(bound, exp.Literal):
                least = float(str(bound.this)) + (1 if isinstance(comparison, exp.GT) else 0)
                if least <= 1:
                    comparison.replace(exp.true())
    return tree


def _case_of_patterns(tree: exp.Expr) -> exp.Expr:
    """SQLite's LIKE ignores the case of ASCII letters."""
    for like in tree.find_all(exp.Like):
        if isinstance(like.expression, exp.Literal | exp.Column) and str(like.expression.name).isascii():
            like.set("expression", exp.Literal.string(like.expression.name.lower()))
    return tree


def _first_row_only(tree: exp.Expr) -> exp.Expr:
    """Of a scalar subquery the first row is taken; with LIMIT 1, sorted by what is selected, DISTINCT takes it too."""
    for select in tree.find_all(exp.Select):
        limit, order = select.args.get("limit"), select.args.get("order")
        above = select.parent
        if isinstance(above, exp.Subquery) and isinstance(above.parent, exp.Binary) and limit is not None:
            select.set("limit", exp.Limit(expression=exp.Literal.number(1)))
            limit = select.args["limit"]
        listed = {part.unalias().sql() for part in select.expressions}
        if (
            limit is not None
            and limit.expression.name == "1"
            and (order is None or all(key.this.sql() in listed for key in order.expressions))
        ):
            select.set("distinct", None)
    return tree


_RULES = {
    "LIKE ignores case": _case_of_patterns,
    "only the first row counts": _first_row_only,
    "DISTINCT where nothing repeats or repeats do not show": _without_idle_distinct,
    "LIMIT or ORDER BY of a single row": _without_idle_order,
    "no group is empty": _literal_counts,
}


def judge_mutants(item: dict[str, object]) -> dict[str, object]:
    """In a worker: for each mutant, whether the suite, its first database alone, and the peer tell it from the gold."""
    from text2sql.evaluation.suite import Suite

    gold, context = str(item["gold"]), str(item["context"])
    found = mutants(gold, context)
    try:
        with Suite(context, gold, int(str(item["databases"])), 5.0) as suite:
            vacuous = suite.vacuous
            told = [suite.difference(mutant.sql) is not None for mutant in found]
    except SqlError:
        return {"skipped": True}
    peer = _peer(gold, context, found)
    lines = [
        {"kind": mutant.kind, "sql": mutant.sql, "told": ours, "peer": theirs, "proof": _proof(gold, mutant)}
        for mutant, ours, theirs in zip(found, told, peer, strict=True)
    ]
    return {"gold": gold, "context": context, "vacuous": vacuous, "mutants": lines}


def _peer(gold: str, context: str, found: list[Mutant]) -> list[bool]:
    schema = parse_schema(context)
    rng = random.Random(gold)
    database = build_database(schema, forgiving=True)
    try:
        for table in schema.tables:
            rows = [
                [rng.randint(1, 100) if c.numeric else rng.choice(NAMES) for c in table.columns]
                for _ in range(PEER_ROWS)
            ]
            marks = ", ".join("?" * len(table.columns))
            database.executemany(f"INSERT INTO {quote(table.name)} VALUES ({marks})", rows)  # noqa: S608
        wanted = run_query(database, gold, 5.0)
        ordered = orders_rows(parse(gold))
        return [not same_result(wanted, run_query(database, mutant.sql, 5.0), ordered) for mutant in found]
    finally:
        database.close()


def read_rows(path: Path | None, count: int, seed: int) -> list[dict[str, str]]:
    """Rows of a JSON-lines file, drawn by the seed, or generated ones."""
    if path is None:
        from text2sql.data.synthetic import generate_rows

        return generate_rows(count, seed)
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return random.Random(seed).sample(rows, min(count, len(rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Share of mutated golds that the judge tells from the gold.")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--data", type=Path, help="JSON lines with context and answer; generated rows when left out")
    parser.add_argument("--databases", type=int, default=5)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--show", type=int, default=0, help="print this many mutants that were not told apart")
    parser.add_argument("--show-vacuous", type=int, default=0, help="and this many golds that count as vacuous")
    arguments = parser.parse_args()
    rows = read_rows(arguments.data, arguments.rows, arguments.seed)
    items = [{"gold": r["answer"], "context": r["context"], "databases": arguments.databases} for r in rows]
    answers = map_rows("benchmarks.mutants:judge_mutants", items, 120.0, lambda _, failure: {"skipped": failure.words})
    judged = [answer for answer in answers if "skipped" not in answer]
    lines = [line for answer in judged for line in answer["mutants"]]
    vacuous = [answer["gold"] for answer in judged if answer["vacuous"]]
    print(f"{len(judged)} of {len(rows)} golds run; {len(vacuous)} vacuous; {len(lines)} mutants")
    rules = [line for line in lines if line["kind"] == "distinct dropped"]
    kinds = Counter(line["kind"] for line in lines if line["kind"] != "distinct dropped")
    table = {kind: [line for line in lines if line["kind"] == kind] for kind in sorted(kinds)}
    table["all"] = [line for line in lines if line["kind"] != "distinct dropped"]
    print(f"{'changed':<16}{'mutants':>8}{'told':>9}{'not proven equal':>18}{'told':>9}{'peer':>9}")
    for kind, own in table.items():
        open_ = [line for line in own if line["told"] or not line["proof"]]
        share = [sum(line[who] for line in group) / max(len(group), 1) for who, group in
                 (("told", own), ("told", open_), ("peer", open_))]  # fmt: skip
        print(f"{kind:<16}{len(own):>8}{share[0]:>9.2%}{len(open_):>18}{share[1]:>9.2%}{share[2]:>9.2%}")
    if rules:
        print(f"DISTINCT dropped, which the rule forgives: {len(rules)}, told {sum(r['told'] for r in rules)}")
    survivors = [(a["gold"], line) for a in judged for line in a["mutants"]
                 if not line["told"] and not line["proof"] and line["kind"] != "distinct dropped"]  # fmt: skip
    rng = random.Random(arguments.seed)
    for gold, line in rng.sample(survivors, min(arguments.show, len(survivors))):
        print(f"\n{line['kind']}\n  {gold}\n  {line['sql']}")
    for gold in rng.sample(vacuous, min(arguments.show_vacuous, len(vacuous))):
        print(f"\nvacuous: {gold}")


if __name__ == "__main__":
    main()
