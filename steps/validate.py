"""Step 2: rows that can be learned from, and those that cannot with the reason why."""

from typing import Annotated

from datasets import Dataset
from zenml import step

from materializers.dataset import DatasetMaterializer
from materializers.figures import ReportMaterializer
from materializers.types import Cell, Report
from steps.cache import BY_CODE
from steps.console import announce, record, show_table, tell, warn
from text2sql.config import Settings


@step(
    cache_policy=BY_CODE,
    output_materializers={
        "valid_rows": DatasetMaterializer,
        "rejected_rows": DatasetMaterializer,
        "validation_report": ReportMaterializer,
    },
)
def validate(
    raw_rows: Dataset, settings: Settings
) -> tuple[
    Annotated[Dataset, "valid_rows"], Annotated[Dataset, "rejected_rows"], Annotated[Report, "validation_report"]
]:
    """Set aside, with a reason, rows whose shape, SQL or gold result is no good."""
    from text2sql.data.check import check_rows

    announce("validate", f"{raw_rows.num_rows:,} rows: shape, SQL, and every gold query run on its own schema")
    checked = check_rows(raw_rows, settings.data)
    figures = {"rows": raw_rows.num_rows, "valid": checked.valid.num_rows, "set_aside": checked.rejected.num_rows}
    reasons: list[dict[str, Cell]] = [{"reason": reason, "rows": count} for reason, count in checked.counts.items()]
    if checked.rejected.num_rows:
        warn(f"{figures['set_aside']:,} of {figures['rows']:,} rows are set aside, {figures['valid']:,} are good:")
        show_table(("reason", "rows"), [tuple(entry.values()) for entry in reasons])
    else:
        tell("all of them are good")
    record({**figures, **{f"set_aside_{reason}": count for reason, count in checked.counts.items()}})
    return checked.valid, checked.rejected, Report("Validation of rows", figures, reasons)
