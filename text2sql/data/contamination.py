"""How much of a test is in the training rows: tables, SQL templates, questions.

Shared templates are no fault, for there are only so many ways to ask; shared tables and questions make a test measure
memory.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from text2sql.data.alike import Groups, Overlaps, TableKey, table_keys
from text2sql.data.batches import read_batches
from text2sql.data.prompt import plain_question

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SHARES = ("same_table", "near_table", "same_template", "same_question")
NEAR = 0.75
"""Overlap of columns from which two tables of one name are nearly the same."""
_TOKEN = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\d+(?:\.\d+)?|\w+(?:\.\w+)*")
_KEYWORDS = frozenset(
    """select from where and or not in is null like between exists join left right inner outer cross natural on using as
    group by having order asc desc limit offset union intersect except all distinct case when then else end with
    count sum avg min max lower upper length substr abs round cast coalesce strftime""".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Contamination:
    """Shares of the rows of one split, 0 to 1, that have something in common with a training row."""

    rows: int
    same_table: float
    """A table of the same name and columns."""
    near_table: float
    """A table of the same name and nearly the same columns."""
    same_template: float
    """SQL that is the same but for names and values."""
    same_question: float
    """The question, without case and punctuation."""


def contamination(splits: DatasetDict) -> dict[str, Contamination]:
    """By split other than train; a split without rows has none. Distractors of data.realistic do not count."""
    train = splits["train"]
    tables = {key for context in train.unique(_context(train)) for key in table_keys(context)}
    templates: set[str] = set()
    questions: set[str] = set()
    for batch in read_batches(train, ("answer", "question"), "comparing splits"):
        templates.update(map(template, batch["answer"]))
        questions.update(map(plain_question, batch["question"]))
    found = {}
    for split, rows in splits.items():
        if split == "train" or not rows.num_rows:
            continue
        context = _context(rows)
        keys = {text: table_keys(text) for text in rows.unique(context)}
        seen = {key for known in keys.values() for key in known}
        alike = seen & tables | _near(seen - tables, tables)
        counts: Counter[str] = Counter()
        for batch in read_batches(rows, (context, "answer", "question")):
            counts["same_table"] += sum(any(key in tables for key in keys[text]) for text in batch[context])
            counts["near_table"] += sum(any(key in alike for key in keys[text]) for text in batch[context])
            counts["same_template"] += sum(template(answer) in templates for answer in batch["answer"])
            counts["same_question"] += sum(plain_question(text) in questions for text in batch["question"])
        shares = {name: counts[name] / rows.num_rows for name in SHARES}
        found[split] = Contamination(rows=rows.num_rows, **shares)
    return found


def contamination_table(found: dict[str, Contamination]) -> list[dict[str, Any]]:
    """One mapping a split, shares as they are."""
    return [{"split": split, **asdict(figures)} for split, figures in found.items()]


def _context(rows: Dataset) -> str:
    return "plain_context" if "plain_context" in rows.column_names else "context"


def _near(wanted: set[TableKey], known: set[TableKey]) -> set[TableKey]:
    """Those of the wanted tables that have most columns in common with a known one of their name."""
    names = {name for name, _ in wanted}
    by_name: defaultdict[str, list[tuple[frozenset[str], bool]]] = defaultdict(list)
    for tables, is_known in ((wanted, False), (known, True)):
        for name, columns in tables:
            if name in names:
                by_name[name].append((columns, is_known))
    return {(name, columns) for name, tables in by_name.items() for columns in _near_of_one_name(tables)}


def _near_of_one_name(tables: list[tuple[frozenset[str], bool]]) -> set[frozenset[str]]:
    """Of sets of columns, with whether they are known, those of the others that overlap with a known one."""
    tables.sort(key=lambda table: len(table[0]), reverse=True)
    sets = [columns for columns, _ in tables]
    done = Groups()
    """The known ones, and those that have been found to be near one."""
    first = next((place for place, (_, is_known) in enumerate(tables) if is_known), None)
    if first is None:
        return set()
    larger = {is_known: Overlaps(sets, NEAR, done.root) for is_known in (True, False)}
    found = set()
    for place, (columns, is_known) in enumerate(tables):
        if is_known:
            done.join(place, first)
        for other in larger[not is_known].find(place):
            near = other if is_known else place
            done.join(near, first)
            found.add(sets[near])
        if is_known or columns not in found:
            larger[is_known].add(place)
    return found


def template(sql: str) -> str:
    """The query with every name as _ and every value as ?, so that two of one shape are equal."""
    return " ".join(_TOKEN.sub(_masked, sql.strip().rstrip(";")).split())


def _masked(match: re.Match[str]) -> str:
    text = match.group()
    if text[0] == "'" or text[0].isdigit():
        return "?"
    return text.upper() if text.lower() in _KEYWORDS else "_"
