"""Settings of the evaluation, and of the gate behind it."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationInfo, field_validator, model_validator

from text2sql.config.section import Fraction, Name, Section

SLICE_DIMENSIONS = ("hardness", "construct", "tables", "source")
"""What test rows are grouped by (text2sql.evaluation.slices)."""


class EvaluationSection(Section):
    """How base and tuned model are judged on the frozen test rows."""

    max_rows: PositiveInt | None = None
    """Judge at most this many test rows, drawn by data.seed; all when empty."""
    batch_size: PositiveInt = 16
    """Prompts that are answered together."""
    max_new_tokens: PositiveInt = 256
    """Longest answer in tokens."""
    databases: PositiveInt = 5
    """SQLite databases filled for each row; an answer must match the gold's result on all of them."""
    query_timeout: Annotated[float, Field(gt=0)] = 2.0
    """Seconds a query may run."""
    few_shot: NonNegativeInt = 3
    """Training rows shown to the base model in a second try, its fair chance; 0 leaves that out."""
    resamples: PositiveInt = 1000
    """Bootstrap resamples behind every 95% interval."""
    report_examples: PositiveInt = 50
    """Example predictions in the report."""


class Threshold(Section):
    """Bounds for one figure."""

    min: float | None = None
    """The figure must be at least this."""
    max: float | None = None
    """The figure must be at most this."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: nothing can pass")
        return self


class Beats(Section):
    """When one model counts as better than another, by execution accuracy on the same rows."""

    significance: Annotated[float, Field(gt=0.0, lt=0.5)] | None = None
    """The difference must be above 0, and the p-value of McNemar's exact test (two-sided) below this."""
    margin: Fraction | None = None
    """No worse by more than this: the 95% interval of the difference must end above -margin."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.significance is None) == (self.margin is None):
            raise ValueError("give significance (must be better) or margin (must not be worse), one of them")
        return self


class Thresholds(Section):
    """Bounds for the figures of an evaluation."""

    execution_accuracy: Threshold | None = None
    """Share of answers with the gold's result on every database of the row."""
    exact_match: Threshold | None = None
    """Share of answers equal to the gold after normalisation."""
    exact_match_without_values: Threshold | None = None
    """Share of answers equal to the gold but for literals."""
    valid_sql: Threshold | None = None
    """Share of answers that parse and run on their schema."""
    schema_adherence: Threshold | None = None
    """Share of answers that invent no table and no column."""
    perplexity: Threshold | None = None
    """exp(mean loss) over the gold's tokens."""
    rouge_l: Threshold | None = None
    """ROUGE-L F1 of the text, 0 to 1."""
    bleu: Threshold | None = None
    """Corpus BLEU of the text, 0 to 100."""

    @model_validator(mode="after")
    def _bounds_within_reach(self) -> Self:
        for name in Thresholds.model_fields:
            if name in ("perplexity", "bleu"):
                continue
            bounds: Threshold | None = getattr(self, name)
            for bound in (bounds.min, bounds.max) if bounds else ():
                if bound is not None and not 0 <= bound <= 1:
                    raise ValueError(f"{name} is a share from 0 to 1, and its bound is {bound:g}")
        return self


class GateSection(Thresholds):
    """What a tuned model must reach before it is staged, and a staged one before it goes live."""

    execution_accuracy: Threshold | None = Threshold(min=0.5)
    """Share of answers with the gold's result on every database of the row."""
    beats_base: Beats | None = Beats(significance=0.05)
    """Against the base model, with the plain and with the few-shot prompt."""
    beats_champion: Beats | None = Beats(margin=0.02)
    """Against the model in stage production; kept where there is none."""
    max_vacuous: Fraction | None = 0.2
    """Share of test rows whose databases cannot tell right from wrong."""
    slices: dict[Name, Thresholds] = {}  # noqa: RUF012 - pydantic copies it
    """Bounds by slice, e.g. {"hardness:extra": {execution_accuracy: {min: 0.4}}}; one without rows breaks its rules."""

    @field_validator("beats_base", "beats_champion", mode="before")
    @classmethod
    def _yes_or_no(cls, value: object, info: ValidationInfo) -> object:
        """true asks for the default, false for nothing."""
        if value is True:
            return cls.model_fields[str(info.field_name)].default
        return None if value is False else value

    @field_validator("slices")
    @classmethod
    def _slices_are_named(cls, slices: dict[str, Thresholds]) -> dict[str, Thresholds]:
        for name in slices:
            dimension, colon, value = name.partition(":")
            if not (colon and value) or dimension not in SLICE_DIMENSIONS:
                known = ", ".join(SLICE_DIMENSIONS)
                raise ValueError(f"{name!r} is no slice; write dimension:value, with a dimension of: {known}")
        return slices
