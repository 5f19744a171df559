"""The Jobs of single steps. ZenML builds them inside its orchestrator's pod, so they are built anew here: with its own
functions, from the same compiled pipeline (kubernetes_orchestrator_entrypoint.py of its Kubernetes integration).
"""

from __future__ import annotations

import json
from typing import Any


def step_job(snapshot: Any, orchestrator: Any, step: str) -> dict[str, Any]:
    """A step's Job as it is sent to the API server."""
    from kubernetes import client
    from zenml.entrypoints.step_entrypoint_configuration import StepEntrypointConfiguration
    from zenml.integrations.kubernetes import kube_utils, manifest_utils

    compiled = snapshot.step_configurations[step]
    settings = orchestrator.get_settings(compiled)
    retry = compiled.config.retry
    pod = manifest_utils.build_pod_manifest(
        pod_name=None,
        image_name=orchestrator.get_image(snapshot=snapshot, step_name=step),
        command=StepEntrypointConfiguration.get_entrypoint_command(),
        args=StepEntrypointConfiguration.get_entrypoint_arguments(step_name=step, snapshot_id=snapshot.id),
        env={},
        privileged=settings.privileged,
        pod_settings=kube_utils.apply_default_resource_requests(memory="400Mi", pod_settings=settings.pod_settings),
        service_account_name=settings.step_pod_service_account_name or settings.service_account_name,
        termination_grace_period_seconds=settings.pod_stop_grace_period,
        labels={"step_name": kube_utils.sanitize_label_value(step)},
    )
    job = manifest_utils.build_job_manifest(
        job_name=kube_utils.sanitize_label(f"{settings.job_name_prefix}-0a1b2c3d-{step}-train"),
        pod_template=manifest_utils.pod_template_manifest_from_pod(pod),
        backoff_limit=(retry.max_retries if retry else 0) + settings.backoff_limit_margin,
        ttl_seconds_after_finished=settings.ttl_seconds_after_finished,
        active_deadline_seconds=settings.active_deadline_seconds,
        pod_failure_policy=settings.pod_failure_policy,
    )
    sent: dict[str, Any] = json.loads(json.dumps(client.ApiClient().sanitize_for_serialization(job)))
    return {"apiVersion": "batch/v1", "kind": "Job", **sent}
