"""What went live: one JSON file, and a page that an operator can read."""

from __future__ import annotations

from typing import ClassVar

from materializers.base import JsonMaterializer, Metadata, finite
from materializers.html import mapping_table, page
from materializers.types import DeploymentCard


class DeploymentMaterializer(JsonMaterializer):
    """A `DeploymentCard`."""

    ASSOCIATED_TYPES: ClassVar = (DeploymentCard,)
    SKIP_REGISTRATION: ClassVar[bool] = False

    def render(self, data: DeploymentCard) -> str:
        live = {
            "address": data.address,
            "live since": data.since,
            "engine": data.engine,
            "sha256": data.digest,
            "verdict": data.verdict,
            "same answers as the evaluated model": data.agreement,
            "test rows compared": data.compared,
            "previous version, kept for --rollback": data.previous,
        }
        return page(
            f"{data.name} version {data.version} is live",
            [mapping_table("", live), mapping_table("Figures", data.figures)],
        )

    def extract_metadata(self, data: DeploymentCard) -> Metadata:
        return finite(
            {"address": data.address, "version": data.version, "sha256": data.digest, "agreement": data.agreement}
        )
