"""Step 1: rows in, from the hub, a local file, or the built-in generator."""

from typing import Annotated

from datasets import Dataset
from zenml import step

from materializers.dataset import DatasetMaterializer
from steps.cache import BY_CODE
from steps.console import announce, record, tell, warn
from text2sql.config import Settings


@step(cache_policy=BY_CODE, output_materializers=DatasetMaterializer)
def ingest(settings: Settings) -> Annotated[Dataset, "raw_rows"]:
    """Read the configured rows, in columns of one set of names."""
    from text2sql.data.load import load_rows, overruled

    source = str(settings.data.path or settings.data.dataset_name)
    announce("ingest", f"rows from {source}")
    rows = load_rows(settings.data)
    if kept := overruled(settings.data):
        warn(f"{source} is prepared, with {'; '.join(kept)}")
    tell(f"{rows.num_rows:,} rows")
    record({"source": source, "rows": rows.num_rows})
    return rows
