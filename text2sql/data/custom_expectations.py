"""Custom expectations for rows of question, schema and SQL; importing this takes as long as Great Expectations does.

Each reads the column `reason`, in which text2sql.data.check has said where a row fails first ("" where it does not).
"""

from __future__ import annotations

from typing import Any, ClassVar

import pandas as pd
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import ColumnMapExpectation, render_suite_parameter_string
from great_expectations.expectations.metrics import ColumnMapMetricProvider, column_condition_partial
from great_expectations.render import LegacyRendererType, RenderedStringTemplateContent
from great_expectations.render.renderer.renderer import renderer
from pydantic.v1 import Field


class ColumnValuesWithoutFault(ColumnMapMetricProvider):
    """Which rows do not have one of the faults."""

    condition_metric_name = "column_values.without_fault"
    condition_value_keys = ("faults",)

    @column_condition_partial(engine=PandasExecutionEngine)
    def _pandas(cls, column: pd.Series, faults: list[str], **_: Any) -> pd.Series:  # noqa: N805 - GX calls it so
        return ~column.isin(faults)


class ExpectRowsWithoutFault(ColumnMapExpectation):
    """Rows do not have one of the faults that the check of rows finds."""

    map_metric: ClassVar[str] = "column_values.without_fault"
    success_keys: ClassVar[tuple[str, ...]] = ("mostly", "faults")
    column: str = "reason"
    faults: list[str] = Field(default_factory=list)
    mostly: float = 1.0

    @classmethod
    @renderer(renderer_type=LegacyRendererType.PRESCRIPTIVE)
    @render_suite_parameter_string
    def _prescriptive_renderer(  # type: ignore[override]
        cls, configuration: Any = None, **_: Any
    ) -> list[RenderedStringTemplateContent]:
        text = f"{configuration.notes}: none of {', '.join(configuration.kwargs['faults'])}"
        mostly = configuration.kwargs.get("mostly", 1.0)
        text += f", in at least {mostly:.0%} of the rows." if mostly < 1.0 else "."
        return [
            RenderedStringTemplateContent(
                content_block_type="string_template", string_template={"template": text, "params": {}, "styling": {}}
            )
        ]
