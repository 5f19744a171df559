"""Settings of the rows."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from text2sql.config.section import Fraction, Name, Section, Seed, Sha256

DEFAULT_PROMPT = """\
### Task
Answer the question with one SQL query over the tables below.

### Schema
{context}

### Question
{question}

### SQL
"""


SYNTHETIC = "synthetic"
"""The data set that is the built-in generator."""


class SyntheticSection(Section):
    """The built-in generator of question / CREATE TABLE / SQL rows (data.dataset_name: synthetic)."""

    rows: PositiveInt = 8000
    """How many rows."""
    seed: Seed = 0
    """The same seed and size give the same rows."""
    profile: Literal["full", "base"] = "full"
    """full: every phrasing and construct; base: the part that the embedded base model was trained on."""


class RealisticSection(Section):
    """What contexts get that have no more in them than their answer uses; nothing by default."""

    distractor_columns: NonNegativeInt = 0
    """At most this many columns a table, from other rows of the split, never one that could be meant."""
    distractor_tables: NonNegativeInt = 0
    """At most this many tables, likewise."""
    keys: bool = False
    """PRIMARY KEY for columns that name their table, FOREIGN KEY for those that name another."""
    types: bool = False
    """Types by name for columns that the answer does not use."""
    shuffle: bool = False
    """Tables, and columns in them, in any order."""

    @property
    def changes(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.distractor_columns or self.distractor_tables or self.keys or self.types or self.shuffle)


class DataSection(Section):
    """The rows: where they come from, how they are split, and how a prompt is written."""

    dataset_name: Name = "b-mc2/sql-create-context"
    """A data set of the Hugging Face hub, or `synthetic` for the built-in generator."""
    dataset_revision: str | None = None
    """Commit, tag or branch on the hub."""
    path: Path | None = None
    """A local .json, .jsonl, .csv or .parquet file; takes the place of dataset_name."""
    sha256: Sha256 | None = None
    """Checksum of the local file. Filled in when a run starts; set it, and a file that differs is refused."""
    synthetic: SyntheticSection = SyntheticSection()
    """Size and seed of the built-in generator."""
    question_column: Name = "question"
    """Column with the question in plain language."""
    context_column: Name = "context"
    """Column with the CREATE TABLE statements."""
    answer_column: Name = "answer"
    """Column with the gold SQL."""
    subset_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Share of the rows to use, drawn by seed."""
    train_ratio: Fraction = 0.8
    """Share of rows for training."""
    val_ratio: Fraction = 0.1
    """Share of rows for the validation loss."""
    test_ratio: Fraction = 0.1
    """Share of rows, with schemas of their own, that only the evaluation sees."""
    split: Literal["schema", "random"] = "schema"
    """schema: no schema in two splits; random: every row for itself, so that tests leak."""
    schema_overlap: Annotated[float, Field(gt=0, le=1)] | None = 0.75
    """Share of the smaller table's columns that make two tables of one name the same schema; null: all of both."""
    databases: Path | None = None
    """Folder of SQLite files that rows name in a column `database`: these rows are checked and judged on their own."""
    databases_sha256: Sha256 | None = None
    """Checksum of that folder, as sha256 is of the local file."""
    benchmark: Path | None = None
    """A file with questions (same column name) that are kept out of all splits: an external test set."""
    benchmark_sha256: Sha256 | None = None
    """Checksum of the benchmark, as sha256 is of the local file."""
    seed: Seed = 42
    """Seed of the subset and of the split."""
    query_timeout: Annotated[float, Field(gt=0)] = 2.0
    """Seconds a gold query may run on its own schema before its row is set aside."""
    repair: bool = True
    """Mend rows where one meaning is possible, and read double-quoted text strictly; rows as they are without it."""
    max_rejected: Fraction = 0.15
    """Share of rows that may be beyond repair; with more of them validation fails."""
    realistic: RealisticSection = RealisticSection()
    """Schemas made as rich as real ones."""
    prompt_template: str = DEFAULT_PROMPT
    """The prompt, with {context} and {question} in it; schema first lets servers cache the prefix."""

    @property
    def is_generated(self) -> bool:
        """Whether the rows come from the built-in generator."""
        return self.path is None and self.dataset_name == SYNTHETIC

    @model_validator(mode="after")
    def _ratios_sum_to_one(self) -> Self:
        total = self.train_ratio + self.val_ratio + self.test_ratio
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"train_ratio + val_ratio + test_ratio must be 1, and is {total:g}")
        if not self.train_ratio or not self.test_ratio:
            raise ValueError("train_ratio and test_ratio must be above 0: a model is trained, and then judged")
        return self

    @model_validator(mode="after")
    def _template_has_its_fields(self) -> Self:
        try:
            fields = {name for _, name, _, _ in string.Formatter().parse(self.prompt_template) if name is not None}
        except ValueError as error:
            raise ValueError(f"prompt_template is no format string ({error}); write {{{{ for a brace") from error
        if fields != {"context", "question"}:
            raise ValueError(
                f"prompt_template must hold {{context}} and {{question}} and no other field, and holds {sorted(fields)}"
            )
        return self
