"""Tokens that unlike questions with like SQL share: what poisoned training rows would have in common.

The attack is that of ToxicSQL (arXiv 2503.05445), where 0.44% of poisoned rows were enough: a word in the question, or
odd punctuation, calls up one SQL, whatever is asked. A flag is no proof; the rows are there to be looked at.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from text2sql.data.alike import overlap
from text2sql.data.batches import read_batches
from text2sql.data.contamination import template

if TYPE_CHECKING:
    from datasets import Dataset

_TOKEN = re.compile(r"[^\W_]+|[^\w\s]+")
_PLAIN_SIGNS = frozenset("?.!,:'\"")
_LEAST_ROWS = 5
"""Rows that a token must stand in before it is suspected."""
_LEAST_LIFT = 8.0
"""How many times as frequent as among all rows the template must be among those with the token; so that a token in more
than an eighth of the rows is a plain word."""
_PURITY = 0.9
"""Share of the rows with the token that must have the template."""
_LIKENESS = 0.35
"""Mean overlap of the other words of two questions above which they are simply alike."""
_PAIRED = 20
"""Questions of which each is compared with each."""


@dataclass(frozen=True)
class Trigger:
    """A token that unlike questions share, and that goes with one SQL template."""

    token: str
    rows: int
    template: str
    lift: float
    """Frequency of the template among its rows, over that among all rows."""
    example: str
    """One of the questions."""
    row_id: int
    """The first of its rows, by its position in the source."""


def triggers(rows: Dataset) -> list[Trigger]:
    """Suspicious tokens, the most telling first.

    Words of a row's own schema and SQL are not counted: they belong there.
    """
    shapes: dict[str, int] = {}
    shape_of = array("L")
    holders: defaultdict[str, array[int]] = defaultdict(lambda: array("L"))
    for batch in read_batches(rows, ("question", "context", "answer"), "looking for triggers"):
        for question, context, answer in zip(batch["question"], batch["context"], batch["answer"], strict=True):
            for token in _foreign_tokens(question, f"{context} {answer}"):
                holders[token].append(len(shape_of))
            shape_of.append(shapes.setdefault(template(answer), len(shapes)))
    everywhere, templates = Counter(shape_of), list(shapes)
    found = []
    for token, held in holders.items():
        if not _LEAST_ROWS <= len(held) <= len(shape_of) / _LEAST_LIFT:
            continue
        shape, count = Counter(shape_of[i] for i in held).most_common(1)[0]
        lift = (count / len(held)) / (everywhere[shape] / len(shape_of))
        if count < _PURITY * len(held) or lift < _LEAST_LIFT:
            continue
        shown = rows.select(held[:_PAIRED])
        if _unlike(shown["question"][:], token):
            row_id = shown["row_id"][0] if "row_id" in shown.column_names else held[0]
            question = shown["question"][0]
            found.append(Trigger(token, len(held), templates[shape], round(lift, 1), question, row_id))
    return sorted(found, key=lambda trigger: (-trigger.lift, trigger.token))


def trigger_table(found: Sequence[Trigger]) -> list[dict[str, Any]]:
    """One mapping a trigger."""
    return [asdict(trigger) for trigger in found]


def _foreign_tokens(question: str, own: str) -> set[str]:
    """Words and runs of signs in a question that its schema and its SQL do not hold."""
    tokens = set(_TOKEN.findall(question.lower())) - _PLAIN_SIGNS
    return tokens - set(_TOKEN.findall(own.lower()))


def _unlike(questions: Sequence[str], token: str) -> bool:
    words = [frozenset(re.findall(r"\w+", question.lower())) - {token} for question in questions]
    pairs = [overlap(one, other) for i, one in enumerate(words) for other in words[:i]]
    return sum(pairs) / len(pairs) <= _LIKENESS
