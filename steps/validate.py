"""Step 2: rows that can be learned from, and those that cannot with the reason why."""

from typing import Annotated

from datasets import Dataset
from zenml import step
from zenml.types import HTMLString

from materializers.dataset import DatasetMaterializer
from materializers.figures import ReportMaterializer
from materializers.types import Cell, Report
from steps.cache import BY_CODE
from steps.console import announce, keep_artifact, record, show_table, tell, warn
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
    Annotated[Dataset, "valid_rows"],
    Annotated[Dataset, "rejected_rows"],
    Annotated[Report, "validation_report"],
    Annotated[HTMLString, "data_docs"],
]:
    """Mend rows that have one remedy; set aside, with a reason, those whose shape, SQL or gold result is no good."""
    from text2sql.data.check import check_rows
    from text2sql.data.expectations import failure_texts, hold_against_suite, too_many_rejected
    from text2sql.errors import DataError
    from text2sql.results import export

    announce("validate", f"{raw_rows.num_rows:,} rows: shape, SQL, and every answer run on its own schema")
    checked = check_rows(raw_rows, settings.data)
    figures: dict[str, Cell] = {
        "rows": raw_rows.num_rows,
        "valid": checked.valid.num_rows,
        "repaired": checked.repaired,
        "set_aside": checked.rejected.num_rows,
    }
    details: list[dict[str, Cell]] = [{"kind": "repaired", "why": k, "rows": n} for k, n in checked.repairs.items()]
    details += [{"kind": "set aside", "why": reason, "rows": n} for reason, n in checked.counts.items()]
    if details:
        warn(
            f"of {raw_rows.num_rows:,} rows {checked.repaired:,} are repaired and {checked.rejected.num_rows:,} set "
            f"aside; {checked.valid.num_rows:,} are good:"
        )
        show_table(("", "why", "rows"), [tuple(entry.values()) for entry in details])
    else:
        tell("all of them are good")
    record({**figures, **{f"{entry['kind']}_{entry['why']}".replace(" ", "_"): entry["rows"] for entry in details}})
    report = hold_against_suite(raw_rows, checked, settings.data)
    if problem := too_many_rejected(checked, settings.data):
        written = export(settings.output_dir, {}, failure_texts(checked, report))
        keep_artifact("data_docs", HTMLString(report.html))
        raise DataError(f"{problem}; see {' and '.join(map(str, written))}")
    return checked.valid, checked.rejected, Report("Validation of rows", figures, details), HTMLString(report.html)
