"""Step 3: splits that share no schema, as prompts and completions, with a count of tokens."""

from typing import Annotated

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
    output_materializers={"splits": DatasetMaterializer, "token_report": ReportMaterializer},
)
def format_rows(
    valid_rows: Dataset, settings: Settings
) -> tuple[Annotated[DatasetDict, "splits"], Annotated[Report, "token_report"]]:
    """Split by schema, render prompts, and measure them against training.max_length."""
    from text2sql.data.prompt import format_splits, token_report
    from text2sql.data.split import split_rows
    from text2sql.training.model import load_tokenizer

    announce("format", "splits without a common schema, rendered as prompts")
    splits = format_splits(split_rows(valid_rows, settings.data), settings.data)
    limit = settings.training.max_length
    report = token_report(splits, load_tokenizer(settings.model), limit)
    table = [{"split": name, **figures} for name, figures in report.to_dict()["splits"].items()]
    over = {f"over_length_{name}": split.over for name, split in report.splits.items()}
    show_table(list(table[0]), [list(row.values()) for row in table])
    if report.splits["train"].over:
        warn(
            f"{report.splits['train'].over:,} training rows have more than training.max_length = {limit} tokens, and "
            "will be left out"
        )
    record({"max_length": limit, **{f"rows_{name}": s.rows for name, s in report.splits.items()}, **over})
    return splits, Report("Tokens a row", {"max_length": limit, **over}, table)
