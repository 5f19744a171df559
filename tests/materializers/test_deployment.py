"""The card of what is live."""

from __future__ import annotations

from typing import Any

from materializers.types import DeploymentCard
from text2sql.deployment.checks import Parity
from text2sql.deployment.release import Release
from text2sql.deployment.target import Deployed, Serving, Status


def test_it_says_what_is_live_and_on_what_grounds(zenml_client: Any):
    from materializers.deployment import DeploymentMaterializer

    release = Release("<m>", "3", "d" * 64, "Gate passed: 1 rule kept", "2026-01-01", {"execution_accuracy": 0.9})
    older = Release("<m>", "2", "c" * 64, "Gate passed: 1 rule kept", "2025-01-01")
    status = Status(
        "local", "http://127.0.0.1:8000", Serving(release, "up", "now", "vllm"), Serving(older, "stopped", "")
    )
    card = DeploymentCard.of(Deployed(release, status, Parity(asked=12, same=9, skipped=2)))
    assert (card.compared, card.agreement, card.previous, card.engine) == (10, 0.9, "2", "vllm")
    assert DeploymentCard.from_json(card.to_json()) == card
    again = DeploymentCard.of(Deployed(release, status, None))
    assert (again.compared, again.agreement) == (None, None)

    materializer = DeploymentMaterializer("unused")
    page = materializer.render(card)
    assert "&lt;m&gt; version 3 is live" in page
    assert "<m>" not in page
    metadata = materializer.extract_metadata(card)
    assert metadata == {"address": "http://127.0.0.1:8000", "version": "3", "sha256": "d" * 64, "agreement": 0.9}
    assert "agreement" not in materializer.extract_metadata(again)
