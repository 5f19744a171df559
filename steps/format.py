"""Step 3: splits that share no schema, as prompts and completions, with a count of tokens."""

from typing import Annotated, Any

from datasets import Dataset, DatasetDict
from zenml import step

from materializers.dataset import DatasetMaterializer
from materializers.figures import ReportMaterializer
from materializers.types import Report
from steps.cache import BY_CODE
from steps.console import announce, record, show_table, warn
from text2sql.config import Settings


@step(
    name="format",
    cache_policy=BY_CODE,
    output_materializers={
        "splits": DatasetMaterializer,
        "token_report": ReportMaterializer,
        "contamination_report": ReportMaterializer,
    },
)
def format_rows(
    valid_rows: Dataset, settings: Settings
) -> tuple[
    Annotated[DatasetDict, "splits"], Annotated[Report, "token_report"], Annotated[Report, "contamination_report"]
]:
    """Split by schema, render prompts, measure them against training.max_length, and the test against training."""
    from text2sql.data.contamination import contamination, contamination_table, triggers
    from text2sql.data.prompt import format_splits, token_report
    from text2sql.data.split import split_rows
    from text2sql.training.model import load_tokenizer

    by_schema = settings.data.split == "schema"
    announce("format", f"splits {'without a common schema' if by_schema else 'at random'}, rendered as prompts")
    tokenizer, limit = load_tokenizer(settings.model), settings.training.max_length
    chat = tokenizer if settings.model.chat_template else None
    splits = format_splits(split_rows(valid_rows, settings.data), settings.data, chat)
    report = token_report(splits, tokenizer, limit)
    table = [{"split": name, **figures} for name, figures in report.to_dict()["splits"].items()]
    over = {f"over_length_{name}": split.over for name, split in report.splits.items()}
    show_table(list(table[0]), [list(row.values()) for row in table])
    if report.splits["train"].over:
        warn(
            f"{report.splits['train'].over:,} training rows have more than training.max_length = {limit} tokens, and "
            "will be left out"
        )
    shared = contamination_table(contamination(splits))
    suspects = triggers(splits["train"])
    if suspects:
        warn(
            f"{len(suspects)} tokens go with one SQL template in unlike questions, {suspects[0].token!r} for one; look"
        )
    show_table(
        ("in train too", *(n for n in shared[0] if n not in ("split", "rows"))), [_percent(row) for row in shared]
    )
    record({f"{row['split']}_{name}": row[name] for row in shared for name in row if name not in ("split", "rows")})
    record({"max_length": limit, **{f"rows_{name}": s.rows for name, s in report.splits.items()}, **over})
    leaks = Report(
        "Of each split, in training too", {"split_by": settings.data.split, "suspects": len(suspects)}, shared
    )
    return splits, Report("Tokens a row", {"max_length": limit, **over}, table), leaks


def _percent(row: dict[str, Any]) -> tuple[str, ...]:
    """The shares of a row as text, behind the split's name."""
    return (row["split"], *(f"{share:.1%}" for name, share in row.items() if name not in ("split", "rows")))
