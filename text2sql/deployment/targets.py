"""The target that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from text2sql.config import Settings
from text2sql.deployment.local import LocalTarget

if TYPE_CHECKING:
    from text2sql.deployment.kubernetes.target import StoredModel
    from text2sql.deployment.target import Target


def target_of(settings: Settings, stored: StoredModel | None = None) -> Target:
    """Where `deploy` of these settings serves.

    Args:
        stored: where the model lies that is to be deployed, for pods to fetch it; to look and to end, none is needed.

    Raises:
        DeploymentError: no cluster is known here.
    """
    if settings.deploy.target == "local":
        return LocalTarget(settings.name, settings.deploy)
    from text2sql.deployment.kubernetes.target import KubernetesTarget

    return KubernetesTarget(settings.deploy, stored)
