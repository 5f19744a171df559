"""Systems side by side on the same frozen rows."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from text2sql.config import Settings
from text2sql.data.prompt import format_split
from text2sql.errors import DataError
from text2sql.evaluation.answering import Contender
from text2sql.evaluation.few_shot import Examples
from text2sql.evaluation.score import score_systems
from text2sql.evaluation.slices import slice_scores, slices_of
from text2sql.evaluation.statistics import RowFigures, compare
from text2sql.evaluation.types import (
    Comparison,
    Evaluation,
    RowScore,
    SystemScores,
    TestRow,
    TokenLoss,
    subject_of,
)
from text2sql.progress import working
from text2sql.sql.parse import first_statement
from text2sql.training.recipe import public_name, recipe_of

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

FEW_SHOT = "_few_shot"
"""Behind the name of a system that was shown examples."""


@dataclass(frozen=True)
class _Answers:
    texts: list[str]
    losses: list[TokenLoss] | None
    seconds: float
    source: str
    digest: str | None


def evaluate_systems(
    rows: Dataset, contenders: Mapping[str, Contender], settings: Settings, training: Dataset | None = None
) -> Evaluation:
    """Answer every row with every system, judge the answers, and hold the one that it is about against all others.

    Args:
        rows: columns prompt, completion, question, context, answer, and where they have them construct, database,
            accepted, source; at most evaluation.max_rows are used.
        contenders: by name.
        training: rows with prompt and completion that examples are drawn from, for contenders with `few_shot`.

    Raises:
        DataError: there are no rows, or they name databases and data.databases does not say where these are.
    """
    rows = frozen_rows(rows, settings.evaluation.max_rows, settings.data.seed)
    if not len(rows):
        raise DataError("there are no test rows to judge on; raise data.test_ratio or data.subset_fraction")
    if settings.data.databases is None and any(rows["database"] if "database" in rows.column_names else ()):
        raise DataError("the test rows name databases; set data.databases to the folder that these are in")
    answers = dict(_all_answers(rows, contenders, settings, training))
    started = time.perf_counter()
    predictions = {name: found.texts for name, found in answers.items()}
    judged = score_systems(rows, predictions, settings.evaluation, settings.data.databases)
    judging = time.perf_counter() - started
    logger.info("judged %d answers in %.1f s", len(rows) * len(answers), judging)
    with working("figures and their intervals"):
        return _added_up(rows, answers, judged, judging / len(answers), settings)


def _added_up(
    rows: Dataset,
    answers: Mapping[str, _Answers],
    judged: Mapping[str, list[RowScore]],
    judging: float,
    settings: Settings,
) -> Evaluation:
    """Marks of rows as figures of systems, slices and comparisons; `judging` is what each system's share of it took."""
    golds, resamples = rows["answer"][:], settings.evaluation.resamples
    systems, of_rows = [], {}
    for name, found in answers.items():
        of_rows[name] = RowFigures.of(judged[name], found.texts, golds, found.losses)
        figures, intervals = of_rows[name].summary(resamples)
        systems.append(
            SystemScores(
                name=name,
                figures=figures,
                predictions=found.texts,
                rows=judged[name],
                seconds=found.seconds + judging,
                intervals=intervals,
                losses=found.losses,
                source=found.source,
                digest=found.digest,
            )
        )
    subject = subject_of(systems)
    others = [system for system in systems if system is not subject]
    test_rows = _test_rows(rows, settings)
    return Evaluation(
        rows=test_rows,
        systems=systems,
        model=public_name(settings.model.name),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        comparisons=[_compared(subject, other, resamples) for other in others],
        slices=slice_scores(test_rows, of_rows, resamples),
        rows_digest=_digest(test_rows, settings.data.databases_sha256),
    )


def plain_figures(rows: Dataset, contender: Contender, settings: Settings) -> dict[str, float] | None:
    """One system's figures on the rows as they were before data.realistic; None where that added nothing."""
    if "plain_context" not in rows.column_names:
        return None
    plain = rows.remove_columns(["context", "prompt"])
    plain = plain.rename_columns({"plain_context": "context", "plain_prompt": "prompt"})
    return evaluate_systems(plain, {"tuned": contender}, settings).system("tuned").figures


def frozen_rows(rows: Dataset, max_rows: int | None, seed: int) -> Dataset:
    """At most `max_rows` rows, the same for the same seed, in their order."""
    if max_rows is None or len(rows) <= max_rows:
        return rows
    return rows.select(sorted(random.Random(seed).sample(range(len(rows)), max_rows)))


def _all_answers(
    rows: Dataset, contenders: Mapping[str, Contender], settings: Settings, training: Dataset | None
) -> Iterator[tuple[str, _Answers]]:
    """By name; a model that stands there under two names is asked once."""
    known: dict[str, _Answers] = {}
    shots = settings.evaluation.few_shot
    for name, contender in contenders.items():
        drawn_from = training if contender.few_shot and shots else None
        asked = known.get(contender.digest or "")
        if asked is not None:
            yield name, asked
            if not drawn_from:
                continue
        recipe = contender.recipe or recipe_of(settings)
        started = time.perf_counter()
        with contender.open() as answerer:
            chat = answerer.tokenizer if recipe.chat_template else None
            # Not as whoever froze the rows asked.
            tries = {} if asked is not None else {name: format_split(rows, recipe.prompt_template, chat)}
            if drawn_from:
                examples = Examples(drawn_from, shots, settings.data.seed, recipe.prompt_template)
                tries[name + FEW_SHOT] = examples.before(rows, chat)
            for label, prompted in tries.items():
                logger.info("%s: answering %d questions", label, len(rows))
                texts = answerer.answers(prompted["prompt"][:])
                if not contender.verbatim:
                    texts = list(map(first_statement, texts))
                losses = answerer.losses(prompted)
                seconds = time.perf_counter() - started
                started = time.perf_counter()
                logger.info("%s: answered in %.1f s", label, seconds)
                found = _Answers(texts, losses, seconds, answerer.source, contender.digest)
                if contender.digest is not None and label == name:
                    known[contender.digest] = found
                yield label, found


def _compared(system: SystemScores, other: SystemScores, resamples: int) -> Comparison:
    ours, theirs = ([row.executed for row in scores.rows] for scores in (system, other))
    return compare(system.name, other.name, ours, theirs, resamples)


def _test_rows(rows: Dataset, settings: Settings) -> list[TestRow]:
    default_source = str(settings.data.path.name if settings.data.path else settings.data.dataset_name)
    defaults = {"accepted": (), "database": "", "construct": "", "source": default_source}
    return [
        TestRow(
            question=row["question"],
            context=row["context"],
            gold=row["answer"],
            accepted=tuple(row["accepted"] or ()),
            database=row["database"] or "",
            construct=row["construct"],
            slices=slices_of(row["answer"], row["source"]),
        )
        for row in (defaults | found for found in rows)
    ]


def _digest(rows: list[TestRow], databases: str | None) -> str:
    """Of what is asked and what is right, the files that decide it included, and nothing that is derived from it."""
    digest = hashlib.sha256()
    for row in rows:
        told = [row.question, row.context, row.gold, row.accepted]
        file = [row.database, databases] if row.database else []
        digest.update(json.dumps([*told, *file]).encode() + b"\n")
    return digest.hexdigest()
