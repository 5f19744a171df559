"""Reports, the course of a training, evaluations and verdicts: one JSON file each, and a page that shows them."""

from __future__ import annotations

from typing import ClassVar

from zenml.enums import ArtifactType, VisualizationType

from materializers.base import JsonMaterializer, Metadata, finite
from materializers.html import mapping_table, page, records_table
from materializers.types import ModelReference, Report, TrainingHistory
from text2sql.evaluation.gate import Verdict
from text2sql.evaluation.types import Evaluation

SHOWN_EXAMPLES = 20
"""Of a report that has no filters: the dashboard runs no scripts. results/report.html has them."""


class ReportMaterializer(JsonMaterializer):
    """A `Report`: its figures as metadata, its table as a page."""

    ASSOCIATED_TYPES: ClassVar = (Report,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar = ArtifactType.DATA_ANALYSIS
    SKIP_REGISTRATION: ClassVar[bool] = False

    def render(self, data: Report) -> str:
        tables = [mapping_table("", data.figures)] if data.figures else []
        return page(data.title, [*tables, *([records_table("Details", data.table, data.shares)] if data.table else [])])

    def extract_metadata(self, data: Report) -> Metadata:
        return finite(dict(data.figures))


class ReferenceMaterializer(JsonMaterializer):
    """A `ModelReference`."""

    ASSOCIATED_TYPES: ClassVar = (ModelReference,)
    SKIP_REGISTRATION: ClassVar[bool] = False

    def render(self, data: ModelReference) -> str:
        known = {"model version": data.version, "artifact": data.artifact, "sha256": data.digest}
        return page("A model", [mapping_table("", known)])


class TrainingHistoryMaterializer(JsonMaterializer):
    """A `TrainingHistory`: the loss curve as a picture, every logged step as a table."""

    ASSOCIATED_TYPES: ClassVar = (TrainingHistory,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar = ArtifactType.DATA_ANALYSIS
    SKIP_REGISTRATION: ClassVar[bool] = False

    def render(self, data: TrainingHistory) -> str:
        from text2sql.evaluation.charts import loss_curve_svg

        tables = [mapping_table("", data.figures), records_table("Logged steps", data.points)]
        return page("Training", tables, svg={"Loss": loss_curve_svg(data.points)})

    def extract_metadata(self, data: TrainingHistory) -> Metadata:
        return finite(dict(data.figures))


class VerdictMaterializer(JsonMaterializer):
    """A gate's `Verdict`: one row a rule."""

    ASSOCIATED_TYPES: ClassVar = (Verdict,)
    SKIP_REGISTRATION: ClassVar[bool] = False

    def render(self, data: Verdict) -> str:
        from text2sql.evaluation.panels import rule_text

        rules = [
            {"": "✓" if rule.passed else "✗", "what was found": rule_text(rule), "rule": f"gate.{rule.name}"}
            for rule in data.rules
        ]
        return page(data.headline, [records_table("", rules)] if rules else [])

    def extract_metadata(self, data: Verdict) -> Metadata:
        return {"passed": data.passed, "headline": data.headline}


class EvaluationMaterializer(JsonMaterializer):
    """An `Evaluation`: the JSON that `results/evaluation.json` is, with its summary and the report as its pages."""

    ASSOCIATED_TYPES: ClassVar = (Evaluation,)
    FILE: ClassVar[str] = "evaluation.json"
    SKIP_REGISTRATION: ClassVar[bool] = False

    def render(self, data: Evaluation) -> str:
        from text2sql.evaluation.report import render_report

        return render_report(data, None, examples=SHOWN_EXAMPLES, scripts=False)

    def save_visualizations(self, data: Evaluation) -> dict[str, VisualizationType]:
        """The figures on one screen first, then the whole report."""
        from text2sql.evaluation.summary import summary_markdown

        target = f"{self.uri}/summary.md"
        with self.artifact_store.open(target, "wb") as file:
            file.write(summary_markdown(data, None).encode())
        return {target: VisualizationType.MARKDOWN, **super().save_visualizations(data)}

    def extract_metadata(self, data: Evaluation) -> Metadata:
        figures = {f"{s.name}_{name}": value for s in data.systems for name, value in s.figures.items()}
        return {"rows": len(data.rows), **finite(figures)}
