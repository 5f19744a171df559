"""What rows must be like, as a Great Expectations suite: the figures of a check, and its page.

The suite stands in expectations.yaml. What needs SQL is judged once, by text2sql.data.check, in processes that may die;
the expectations of this module read its verdicts. A row counts where it fails first.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text2sql.config import DataSection
from text2sql.data import FIELDS
from text2sql.data.batches import read_batches
from text2sql.data.check import CheckedRows
from text2sql.noise import is_loud
from text2sql.progress import working

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

SUITE = Path(__file__).with_name("expectations.yaml")
STYLE = Path(__file__).with_name("expectations.css")
_ACTIVE = re.compile(r"""<link[^>]*>|<script\b.*?</script>|<img[^>]*>|\son\w+="[^"]*\"""", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Expectation:
    """One line of the suite, held against the rows."""

    what: str
    success: bool
    unexpected: int
    """Rows that do not meet it."""
    required: float
    """Share of rows that must."""


@dataclass(frozen=True)
class ValidationReport:
    """A suite's results: whether all of it is met, a line an expectation, and the page of Great Expectations."""

    success: bool
    expectations: tuple[Expectation, ...]
    html: str


def hold_against_suite(rows: Dataset, checked: CheckedRows, data: DataSection) -> ValidationReport:
    """The suite's results for rows as they came, with the verdicts of their check."""
    reasons = dict(zip(checked.rejected["row_id"][:], checked.rejected["reason"][:], strict=True))
    frame = rows.select_columns([*FIELDS, "row_id"]).to_pandas()
    frame["reason"] = frame.pop("row_id").map(reasons).fillna("")
    return validate_rows(frame, data.max_rejected)


def too_many_rejected(checked: CheckedRows, data: DataSection) -> str | None:
    """What is wrong when no row can be used, or more than data.max_rejected are beyond repair, else None.

    Rows that stand there twice or in a benchmark are set aside, and not held against the others.
    """
    reasons = ", ".join(f"{reason} {count}" for reason, count in checked.counts.items())
    if not checked.valid.num_rows:
        first = checked.rejected[0]
        return (
            f"none of the {checked.rejected.num_rows:,} rows is valid ({reasons}); the first, for example: "
            f"{first['reason']}: {first['detail']}; look at the file, and at data.question_column, data.context_column "
            "and data.answer_column"
        )
    broken = checked.rejected.num_rows - sum(checked.counts.get(reason, 0) for reason in ("duplicate", "in_benchmark"))
    total = checked.valid.num_rows + broken
    if broken <= data.max_rejected * total:
        return None
    return (
        f"{broken:,} of {total:,} rows ({broken / total:.1%}) are beyond repair ({reasons}), and data.max_rejected is "
        f"{data.max_rejected:.0%}; mend the rows, or raise the share"
    )


def failure_texts(checked: CheckedRows, report: ValidationReport) -> dict[str, str]:
    """Files that tell why rows were refused, by name."""
    names = checked.rejected.column_names
    rejected = "".join(
        json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n"
        for batch in read_batches(checked.rejected, names)
        for row in zip(*batch.values(), strict=True)
    )
    return {"validation.html": report.html, "rejected.jsonl": rejected}


def validate_rows(rows: pd.DataFrame, max_rejected: float) -> ValidationReport:
    """Hold rows against the suite.

    Args:
        rows: question, context and answer as they came, and reason: "" or the slug of `check_rows`.
        max_rejected: share of rows that may miss an expectation that names no share of its own.
    """
    with working("Great Expectations writes its page"), _quiet():
        import great_expectations as gx

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
        asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
        batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": rows})
        result = batch.validate(_suite(max_rejected), result_format="SUMMARY")
        return ValidationReport(bool(result.success), tuple(map(_line, result.results)), _page(result))


def _suite(max_rejected: float) -> Any:
    import great_expectations as gx
    import yaml

    from text2sql.data.custom_expectations import ExpectRowsWithoutFault

    suite = gx.ExpectationSuite(name="rows of question, schema and SQL")
    for entry in yaml.safe_load(SUITE.read_text(encoding="utf-8")):
        arguments = {name: value for name, value in entry.items() if name not in ("expect", "what")}
        kind = ExpectRowsWithoutFault if "faults" in entry else getattr(gx.expectations, entry["expect"])
        if "mostly" in kind.__fields__:
            arguments.setdefault("mostly", 1.0 - max_rejected)
        suite.add_expectation(kind(notes=entry["what"], **arguments))
    return suite


def _line(result: Any) -> Expectation:
    configuration = result.expectation_config
    return Expectation(
        what=str(configuration.notes),
        success=bool(result.success),
        unexpected=int(result.result.get("unexpected_count") or 0),
        required=float(configuration.kwargs.get("mostly", 1.0)),
    )


def _page(result: Any) -> str:
    """The page of Great Expectations, without scripts and what it would load from other machines."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    view: Any = DefaultJinjaPageView()
    html = _ACTIVE.sub("", str(view.render(ValidationResultsPageRenderer().render(result))))
    return html.replace("</head>", f"<style>{STYLE.read_text(encoding='utf-8')}</style></head>", 1)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No log of every metric, which ZenML's log level would let through, and no deprecations among libraries."""
    if is_loud():
        yield
        return
    below = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(below)
