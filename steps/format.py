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
from text2sql.progress import working


@step(
    name="format",
    cache_policy=BY_CODE,
    output_materializers={
        "splits": DatasetMaterializer,
        "token_report": ReportMaterializer,
        "contamination_report": ReportMaterializer,
        "trigger_report": ReportMaterializer,
    },
)
def format_rows(
    valid_rows: Dataset, settings: Settings
) -> tuple[
    Annotated[DatasetDict, "splits"],
    Annotated[Report, "token_report"],
    Annotated[Report, "contamination_report"],
    Annotated[Report, "trigger_report"],
]:
    """Split by schema, render prompts, measure them against training.max_length, and the test against training."""
    from text2sql.data.contamination import SHARES, contamination, contamination_table
    from text2sql.data.prompt import format_splits, token_report
    from text2sql.data.split import split_rows
    from text2sql.data.triggers import trigger_table, triggers

    by_schema = settings.data.split == "schema"
    announce("format", f"splits {'without a common schema' if by_schema else 'at random'}, rendered as prompts")
    with working("loading Transformers"):
        from text2sql.training.model import load_tokenizer
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
    show_table(("in train too", *SHARES), [(row["split"], *(f"{row[name]:.1%}" for name in SHARES)) for row in shared])
    suspects = trigger_table(triggers(splits["train"]))
    if suspects and not settings.data.is_generated:  # whose words go with its templates, and which nobody can poison
        warn(f"{len(suspects)} words go with one SQL template, as poison would; look at such rows:")
        show_table(("word", "rows", "template"), [(repr(s["token"]), s["rows"], s["template"]) for s in suspects[:5]])
    record({f"{row['split']}_{name}": row[name] for row in shared for name in SHARES})
    record({"max_length": limit, **{f"rows_{name}": s.rows for name, s in report.splits.items()}, **over})
    record({"suspected_triggers": len(suspects)})
    return (
        splits,
        Report("Tokens a row", {"max_length": limit, **over}, table),
        Report("Of each split, in training too", {"split_by": settings.data.split}, shared, list(SHARES)),
        Report("Tokens that look like triggers", {"suspected": len(suspects)}, suspects),
    )
