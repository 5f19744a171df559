"""Step 0 of a retraining: is there anything new since the last one that finished?"""

from dataclasses import dataclass
from typing import Annotated, Any

from zenml import get_step_context, step

from materializers.figures import ReportMaterializer
from materializers.types import Report
from steps.cache import source_checksum
from steps.console import announce, record, tell
from steps.production import mark_what_serves
from steps.reconcile import reconcile
from text2sql.config import Settings

FINGERPRINT = "fingerprint"
"""Metadata of a model version whose retraining finished."""


@dataclass(frozen=True)
class Changes:
    """What a retraining would train from, and what of it is new."""

    settings: Settings
    """With its inputs pinned."""
    fingerprint: dict[str, str]
    changed: list[str]
    """Parts that differ from those of the last finished retraining; all of them where there is none."""
    last: str | None
    """Number of that one's model version."""

    @property
    def line(self) -> str:
        if self.last is None:
            return "no retraining has finished yet"
        if not self.changed:
            return f"nothing new since version {self.last}: same data, code and config"
        return f"new since version {self.last}: {', '.join(self.changed)}"


def find_changes(settings: Settings) -> Changes:
    """Look at the data, the base model, the code and the settings as they are now.

    Raises:
        DataError, ModelError: an input is missing.
    """
    from text2sql.fingerprint import changed, fingerprint, pin_inputs

    pinned = pin_inputs(settings)
    now = fingerprint(pinned, source_checksum())
    version = _last_finished(settings.name)
    before = version.run_metadata[FINGERPRINT] if version else {}
    return Changes(pinned, now, changed(before, now), str(version.number) if version else None)


def _last_finished(name: str) -> Any:
    from zenml.client import Client
    from zenml.utils.pagination_utils import depaginate_stream

    versions = depaginate_stream(Client().list_model_versions, model=name, sort_by="desc:number", hydrate=True)
    return next((version for version in versions if FINGERPRINT in version.run_metadata), None)


# Never from the cache: the inputs change behind the same settings.
@step(enable_cache=False, output_materializers=ReportMaterializer)
def detect_changes(settings: Settings) -> Annotated[Report, "changes"]:
    """Tell what is new; where nothing is, and steps run in pods of their own, end the run before they start."""
    announce("detect_changes", f"what is new for {settings.name}")
    reconcile(settings.name, _own_run_id())
    mark_what_serves(settings)
    changes = find_changes(settings)
    tell(changes.line)
    record({"changed": ", ".join(changes.changed) or "nothing"})
    if not changes.changed:
        _end_quietly()
    return Report("What is new", {"last": changes.last, "changed": ", ".join(changes.changed), **changes.fingerprint})


def _own_run_id() -> Any:
    try:
        return get_step_context().pipeline_run.id
    except RuntimeError:  # called by itself, outside a pipeline
        return None


def _end_quietly() -> None:
    """A run in this process was not started if nothing is new (pipelines/again.py); pods were, by a schedule."""
    from zenml.client import Client
    from zenml.utils.run_utils import stop_run

    try:
        run = get_step_context().pipeline_run
    except RuntimeError:
        return
    wanted_anyway = run.config.enable_cache is False  # --no-cache
    if not wanted_anyway and Client().active_stack.orchestrator.config.is_remote:
        stop_run(Client().get_pipeline_run(run.id), graceful=True)
