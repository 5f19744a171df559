"""Schemas as in real databases: more columns and tables than the question needs, keys, types, any order.

Contexts that were inferred from their queries hold what the answer uses and nothing else, so that a model never learns
to choose. What is added comes from other rows of the same set, and never what could be meant too: no column whose name
shares a word with the question, the SQL or the schema, and no table of a name that they speak of.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from text2sql.config import RealisticSection
from text2sql.data.batches import TextRows, distinct, map_batches
from text2sql.data.verdict import check_queries
from text2sql.sql.ddl import TableText, column_name, quoted, retyped_definition, split_tables

if TYPE_CHECKING:
    from datasets import Dataset

_ID = re.compile(r"(?:^|_)id$|^id_|[a-z]Id$|ID$")
_TYPES = tuple(
    (re.compile(rf"(?:^|_)(?:{names})(?:_|$)", re.IGNORECASE), type_)
    for names, type_ in (
        ("date|birthday|on$|at$", "DATE"),
        ("price|cost|amount|salary|rate|ratio|percent|balance|score|budget|weight|height", "REAL"),
        ("age|year|count|number|num|total|quantity|rank|population|capacity", "INTEGER"),
    )
)
_SAME_ID = re.compile(r"\.id\s*=\s*\w+\.id\b", re.IGNORECASE)
_STAR = re.compile(r"\bSELECT\s+(?:DISTINCT\s+)?(?:\w+\.)?\*", re.IGNORECASE)
_TRIES = 20


def make_realistic(rows: Dataset, wanted: RealisticSection, seed: int, timeout: float) -> Dataset:
    """The rows with contexts as `wanted` asks; deterministic by seed, context and question, whatever their order.

    What is added comes from these rows alone: make splits first. A context on which the gold would no longer run stays
    as it is, and so do that of SELECT *, whose result would change, and that of a row with a database of its own. The
    context before is kept in `plain_context`.
    """
    if (
        not wanted.changes or not rows.num_rows or "plain_context" in rows.column_names
    ):  # prepared rows are rich already
        return rows
    pool = _pool(distinct(rows, "context"))

    def made(batch: dict[str, list[str]]) -> dict[str, list[str]]:
        texts = zip(batch["context"], batch["question"], batch["answer"], strict=True)
        return {"plain_context": batch["context"], "context": [_realistic(*row, pool, wanted, seed) for row in texts]}

    rich = map_batches(rows, made, "making schemas realistic")
    verdicts = check_queries(TextRows(rich, ("context", "answer")), timeout, False, "checking rows again")

    def kept(batch: dict[str, list[str]], positions: list[int]) -> dict[str, list[str]]:
        real = batch.get("database") or [""] * len(positions)
        contexts = zip(positions, real, batch["context"], batch["plain_context"], strict=True)
        return {"context": [plain if verdicts[i] or file else new for i, file, new, plain in contexts]}

    return map_batches(rich, kept, "writing rows", positions=True)


def _pool(contexts: Sequence[str]) -> list[TableText]:
    """Every table of the rows once, in the order of their names."""
    tables: dict[str, TableText] = {}
    for context in sorted(contexts):
        for table in split_tables(context):
            tables.setdefault(f"{table.name.lower()}({','.join(sorted(c.lower() for c in table.columns))})", table)
    return [tables[key] for key in sorted(tables)]


def _realistic(
    context: str, question: str, answer: str, pool: list[TableText], wanted: RealisticSection, seed: int
) -> str:
    if _STAR.search(answer):
        return context
    rng = random.Random(f"{seed}:{zlib.crc32((context + question).encode())}")
    tables = [_stripped(table) for table in split_tables(context)]
    said = _stems(f"{question} {answer}")
    if wanted.distractor_columns:
        most = wanted.distractor_columns
        tables = [_with_columns(table, tables, pool, said, rng.randint(0, most), rng) for table in tables]
    if wanted.distractor_tables:
        tables += _more_tables(tables, pool, said, rng.randint(0, wanted.distractor_tables), rng)
    if wanted.types:
        tables = [_typed(table, answer) for table in tables]
    if wanted.shuffle:
        tables = [_shuffled(table, rng) for table in tables]
        rng.shuffle(tables)
    if wanted.keys:
        keys = {table.name: key for table in tables if (key := _own_key(table, answer)) is not None}
        tables = [_with_keys(table, keys) for table in tables]
    return "; ".join(str(table).strip() for table in tables)


def _stripped(table: TableText) -> TableText:
    """One blank between definitions, none before the first."""
    definitions = [text.strip() for text in table.definitions]
    return TableText(table.head.strip() + " ", tuple(definitions[:1] + [f" {text}" for text in definitions[1:]]), "")


def _stems(text: str) -> set[str]:
    """Words of a text without their plural s; a column name gives its parts."""
    return {word.rstrip("s") for word in re.findall(r"[^\W\d_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", text).lower())}


def _with_columns(
    table: TableText, tables: list[TableText], pool: list[TableText], said: set[str], count: int, rng: random.Random
) -> TableText:
    """Columns of other tables whose names share no word with the question, the SQL, or a column that is there."""
    taken = _stems(" ".join(name for other in tables for name in other.columns)) | said
    added: list[str] = []
    for _ in range(_TRIES):
        if len(added) >= count or not pool:
            break
        text = rng.choice(rng.choice(pool).definitions).strip()
        name = column_name(text)
        if name is None or _stems(name) & taken or not _stems(name):
            continue
        taken |= _stems(name)
        added.append(f" {text}")
    return table.with_columns(tuple(added))


def _more_tables(
    tables: list[TableText], pool: list[TableText], said: set[str], count: int, rng: random.Random
) -> list[TableText]:
    taken = {table.name.lower() for table in tables}
    columns = {name.lower() for table in tables for name in table.columns}
    added: list[TableText] = []
    for _ in range(_TRIES):
        if len(added) >= count or not pool:
            break
        table = rng.choice(pool)
        words = _stems(" ".join((table.name, *table.columns)))
        if table.name.lower() in taken or words & said or {name.lower() for name in table.columns} & columns:
            continue
        taken.add(table.name.lower())
        added.append(_stripped(table))
    return added


def _typed(table: TableText, answer: str) -> TableText:
    """Types that names tell, for columns that the SQL does not use; those that it uses have theirs from that use."""
    used = set(re.findall(r"\w+", answer.lower()))

    def typed(text: str) -> str:
        name = column_name(text)
        if name is None or name.lower() in used:
            return text
        by_name = (type_ for pattern, type_ in _TYPES if pattern.search(name))
        found = next(by_name, "INTEGER" if _ID.search(name) else None)
        return retyped_definition(text, found) if found else text

    return TableText(table.head, tuple(map(typed, table.definitions)), table.tail)


def _shuffled(table: TableText, rng: random.Random) -> TableText:
    columns = [text.strip() for text in table.definitions if column_name(text) is not None]
    rules = [text.strip() for text in table.definitions if column_name(text) is None]
    rng.shuffle(columns)
    texts = [*columns, *rules]
    return TableText(table.head, tuple(texts[:1] + [f" {text}" for text in texts[1:]]), table.tail)


def _own_key(table: TableText, answer: str) -> str | None:
    """The column that names its table: <table>_id, or id where the SQL does not take it for another table's."""
    own = _key_names(table.name) | (set() if _SAME_ID.search(answer) else {"id"})
    return next((name for name in table.columns if name.lower() in own), None)


def _key_names(table: str) -> set[str]:
    stem = table.lower()
    return {f"{stem}_id", f"{stem.rstrip('s')}_id", f"{stem}id"}


def _with_keys(table: TableText, keys: dict[str, str]) -> TableText:
    """PRIMARY KEY for the column that names the table, and FOREIGN KEY for those that name another.

    Args:
        keys: the columns that name their tables, by table.
    """
    if re.search(r"\b(?:PRIMARY|FOREIGN)\s+KEY\b|\bREFERENCES\b", str(table), re.IGNORECASE):
        return table
    own = keys.get(table.name)
    rules = [f" PRIMARY KEY ({quoted(own)})"] if own else []
    for name in table.columns:
        others = (other for other in keys if other != table.name and name.lower() in _key_names(other))
        if name != own and (other := next(others, None)) is not None:
            rules.append(f" FOREIGN KEY ({quoted(name)}) REFERENCES {quoted(other)} ({quoted(keys[other])})")
    return TableText(table.head, (*table.definitions, *rules), table.tail)
