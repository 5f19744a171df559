"""How much of a test is in the training rows: tables, SQL templates, questions; and tokens that smell of poison.

Shared templates are no fault, for there are only so many ways to ask; shared tables and questions make a test measure
memory.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from text2sql.data.prompt import plain_question
from text2sql.data.split import TableKey, overlap, table_keys

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

NEAR = 0.75
"""Overlap of columns from which two tables of one name are nearly the same."""
_TOKEN = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\d+(?:\.\d+)?|\w+(?:\.\w+)*")
_KEYWORDS = frozenset(
    """select from where and or not in is null like between exists join left right inner outer cross natural on using as
    group by having order asc desc limit offset union intersect except all distinct case when then else end with
    count sum avg min max lower upper length substr abs round cast coalesce strftime""".split()  # noqa: SIM905
)
_TRIGGER_ROWS = 5
"""Rows that a token must stand in before it is suspected."""
_TRIGGER_SHARE = 0.02
"""Share of rows above which a token is a plain word."""
_TRIGGER_LIFT = 8.0
"""How many times as frequent as elsewhere the template must be among the rows with the token."""
_TRIGGER_PURITY = 0.9
_TRIGGER_LIKENESS = 0.35
"""Mean overlap of the other words of two questions above which they are simply alike."""
_PAIRS = 20


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


@dataclass(frozen=True)
class Trigger:
    """A token that unlike questions share, and that goes with one SQL template: what a poisoned row would look like."""

    token: str
    rows: int
    template: str
    lift: float
    """Frequency of the template among its rows, over that among all rows."""


def contamination(splits: DatasetDict) -> dict[str, Contamination]:
    """By split other than train; a split without rows has none. Distractors of data.realistic do not count."""
    train = splits["train"]
    tables = _tables(_contexts(train))
    by_name: defaultdict[str, set[frozenset[str]]] = defaultdict(set)
    for name, columns in tables:
        by_name[name].add(columns)
    templates = set(map(template, train["answer"][:]))
    questions = set(map(plain_question, train["question"][:]))
    found = {}
    for split, rows in splits.items():
        if split == "train" or not rows.num_rows:
            continue
        contexts = _contexts(rows)
        keys = {context: table_keys(context) for context in set(contexts)}
        same = {context: any(key in tables for key in known) for context, known in keys.items()}
        near = {
            context: same[context] or any(_is_near(key, by_name) for key in known) for context, known in keys.items()
        }
        found[split] = Contamination(
            rows=rows.num_rows,
            same_table=_share(same[context] for context in contexts),
            near_table=_share(near[context] for context in contexts),
            same_template=_share(template(answer) in templates for answer in rows["answer"]),
            same_question=_share(plain_question(question) in questions for question in rows["question"]),
        )
    return found


def contamination_table(found: dict[str, Contamination]) -> list[dict[str, Any]]:
    """One mapping a split, shares as they are."""
    return [{"split": split, **asdict(figures)} for split, figures in found.items()]


def template(sql: str) -> str:
    """The query with every name as _ and every value as ?, so that two of one shape are equal."""
    return " ".join(_TOKEN.sub(_masked, sql.strip().rstrip(";")).split())


def _masked(match: re.Match[str]) -> str:
    text = match.group()
    if text[0] == "'" or text[0].isdigit():
        return "?"
    return text.upper() if text.lower() in _KEYWORDS else "_"


def triggers(rows: Dataset) -> list[Trigger]:
    """Tokens that unlike questions with like SQL share, the most telling first; a flag to look at, not a proof.

    Words of a row's own schema and SQL are not counted: they belong there. The attack is that of ToxicSQL
    (arXiv 2503.05445), where 0.44% of poisoned rows were enough.
    """
    questions, answers = rows["question"][:], rows["answer"][:]
    templates = list(map(template, answers))
    everywhere = Counter(templates)
    holders: defaultdict[str, list[int]] = defaultdict(list)
    for i, (question, context, answer) in enumerate(zip(questions, rows["context"][:], answers, strict=True)):
        own = set(re.findall(r"[^\W_]+", f"{context} {answer}".lower()))
        for token in set(re.findall(r"[^\s,;]+", question.lower().rstrip("?.! "))) - own:
            holders[token].append(i)
    found = []
    for token, held in holders.items():
        if not _TRIGGER_ROWS <= len(held) <= max(_TRIGGER_ROWS, _TRIGGER_SHARE * len(questions)):
            continue
        shape, count = Counter(templates[i] for i in held).most_common(1)[0]
        lift = (count / len(held)) / (everywhere[shape] / len(questions))
        if (
            count >= _TRIGGER_PURITY * len(held)
            and lift >= _TRIGGER_LIFT
            and _unlike([questions[i] for i in held], token)
        ):
            found.append(Trigger(token, len(held), shape, round(lift, 1)))
    return sorted(found, key=lambda trigger: -trigger.lift)


def _unlike(questions: Sequence[str], token: str) -> bool:
    words = [frozenset(re.findall(r"\w+", question.lower())) - {token} for question in questions[:_PAIRS]]
    pairs = [overlap(one, other) for i, one in enumerate(words) for other in words[:i]]
    return sum(pairs) / len(pairs) <= _TRIGGER_LIKENESS


def _contexts(rows: Dataset) -> list[str]:
    contexts: list[str] = rows["plain_context" if "plain_context" in rows.column_names else "context"][:]
    return contexts


def _tables(contexts: Iterable[str]) -> set[TableKey]:
    return {key for context in set(contexts) for key in table_keys(context)}


def _is_near(key: TableKey, by_name: dict[str, set[frozenset[str]]]) -> bool:
    return any(overlap(key[1], columns) >= NEAR for columns in by_name.get(key[0], ()))


def _share(truths: Iterable[bool]) -> float:
    values = list(truths)
    return sum(values) / len(values)
