"""What the materializers share: artifacts that are one JSON file, and pages beside them."""

from __future__ import annotations

import hashlib
import math
from typing import Any, ClassVar

from zenml.enums import ArtifactType, VisualizationType
from zenml.materializers.base_materializer import BaseMaterializer

Metadata = dict[str, Any]


class PageMaterializer(BaseMaterializer):
    """A materializer whose artifact is shown as one HTML page."""

    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA
    SKIP_REGISTRATION: ClassVar[bool] = True

    def render(self, data: Any) -> str:
        """The page for `data`; every text in it escaped."""
        raise NotImplementedError

    def save_visualizations(self, data: Any) -> dict[str, VisualizationType]:
        """The page, stored beside the data."""
        target = f"{self.uri}/page.html"
        with self.artifact_store.open(target, "wb") as file:
            file.write(self.render(data).encode())
        return {target: VisualizationType.HTML}


class JsonMaterializer(PageMaterializer):
    """A dataclass as one JSON file, by its own `to_json` and `from_json`."""

    SKIP_REGISTRATION: ClassVar[bool] = True
    FILE: ClassVar[str] = "data.json"

    def load(self, data_type: type[Any]) -> Any:  # noqa: ARG002 - a materializer of ours stores one type
        """The dataclass, whatever type is asked for: where ZenML cannot know it, it asks for `object`."""
        with self.artifact_store.open(f"{self.uri}/{self.FILE}", "rb") as file:
            return self.ASSOCIATED_TYPES[0].from_json(file.read().decode())

    def save(self, data: Any) -> None:
        """One file in one write."""
        with self.artifact_store.open(f"{self.uri}/{self.FILE}", "wb") as file:
            file.write(data.to_json().encode())

    def compute_content_hash(self, data: Any) -> str:
        """Equal content spares the steps after it, even when the step before ran again."""
        return hashlib.sha256(data.to_json().encode()).hexdigest()


def finite(figures: dict[str, Any]) -> Metadata:
    """Figures that ZenML can store: it has no place for None, NaN and infinity."""
    return {
        name: value
        for name, value in figures.items()
        if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }
