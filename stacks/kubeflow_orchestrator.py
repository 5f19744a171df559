"""A ZenML flavor for Kubeflow Pipelines that asks for GPUs.

ZenML's own (0.98) drops node selectors, tolerations, volumes and secrets, and nothing puts a GPU into KFP's IR. This
one puts the whole resource spec there, hands cron expressions over with the seconds that KFP reads first, remembers
runs so that they can be asked about, ended, paused and deleted, and says so when the API cannot be reached.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, cast

from kfp import dsl
from kfp_server_api.exceptions import ApiException
from pydantic import Field, field_validator
from urllib3.exceptions import HTTPError
from zenml.enums import ExecutionMode, ExecutionStatus
from zenml.integrations.kubeflow.flavors.kubeflow_orchestrator_flavor import (
    KubeflowOrchestratorConfig,
    KubeflowOrchestratorFlavor,
    KubeflowOrchestratorSettings,
)
from zenml.integrations.kubeflow.orchestrators.kubeflow_orchestrator import KubeflowOrchestrator
from zenml.orchestrators import SubmissionResult

from stacks.kubeflow import apply_resources
from stacks.spec import Resources, StackFile
from text2sql.errors import StackError

FLAVOR = "text2sql_kubeflow"
RECURRING_RUN = "recurring_run_id"
"""Metadata of a ZenML schedule: KFP's name for it."""
RUN_ID = "KFP_RUN_UUID"
"""Environment of every step, and metadata of a run: KFP's name for it."""
PATIENCE = 10
"""Failed looks at a run in a row, after which it is given up; the run goes on."""
ENDED = {
    "SUCCEEDED": ExecutionStatus.COMPLETED,
    "FAILED": ExecutionStatus.FAILED,
    "CANCELED": ExecutionStatus.STOPPED,
    "SKIPPED": ExecutionStatus.STOPPED,
}
"""KFP's states of a run that will not change any more, in ZenML's words."""


class Text2SQLKubeflowSettings(KubeflowOrchestratorSettings):
    """What stacks/kubeflow.yaml says, on the pipeline and on each step."""

    stack: dict[str, Any] = Field(default_factory=dict)
    """Of the pipeline: the stack's file without its steps."""
    resources: dict[str, Any] = Field(default_factory=dict)
    """Of a step: its resource spec, defaults included."""
    poll_seconds: float = 5.0
    """Between two looks at a run."""

    @field_validator("pod_settings", mode="before")
    @classmethod
    def _no_pod_settings(cls, _value: object) -> None:
        """The stock class fills them in, and its orchestrator then warns that it ignores them."""


class Text2SQLKubeflowConfig(KubeflowOrchestratorConfig, Text2SQLKubeflowSettings):
    """Of the component; the settings' fields are defaults of its runs."""

    @property
    def handles_step_retries(self) -> bool:
        """A new pod a try: one that was killed or evicted cannot try again itself."""
        return True


class Text2SQLKubeflowOrchestrator(KubeflowOrchestrator):
    """Kubeflow Pipelines with the resource spec of stacks/."""

    _resources: dict[str, Resources]
    _stack: StackFile

    @property
    def settings_class(self) -> type[Text2SQLKubeflowSettings]:
        return Text2SQLKubeflowSettings

    @property
    def supported_execution_modes(self) -> list[ExecutionMode]:
        """KFP starts nothing after a step that failed, and ZenML takes no more steps of a run that did."""
        return [ExecutionMode.FAIL_FAST, ExecutionMode.CONTINUE_ON_FAILURE]

    def submit_pipeline(self, snapshot: Any, *arguments: Any, **named: Any) -> SubmissionResult | None:
        """Compile and start, or schedule, a pipeline.

        Raises:
            StackError: KFP's API cannot be reached, or refuses.
        """
        steps = snapshot.step_configurations.items()
        self._stack = StackFile.model_validate(self._settings(snapshot).stack or {"orchestrator": {"kind": "kubeflow"}})
        self._resources = {
            _task_name(name): Resources.model_validate(self._settings(step).resources) for name, step in steps
        }
        return super().submit_pipeline(snapshot, *arguments, **named)

    def _configure_container_resources(self, dynamic_component: Any, *_ignored: Any, **_named: Any) -> Any:
        """The task gets its step's whole spec, not ZenML's ResourceSettings."""
        apply_resources(dynamic_component, self._resources[dynamic_component.name], self._stack)
        dynamic_component.set_env_variable(name=RUN_ID, value=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
        return dynamic_component

    def _upload_and_run_pipeline(
        self, snapshot: Any, pipeline_file_path: str, run_name: str
    ) -> SubmissionResult | None:
        settings = self._settings(snapshot)
        with self._client(settings) as client:
            common = {"enable_caching": False, "service_account": self._stack.orchestrator.service_account}
            experiment = client.create_experiment(  # or the one of that name
                snapshot.pipeline_configuration.name, namespace=settings.user_namespace
            )
            if snapshot.schedule:
                recurring = client.create_recurring_run(
                    experiment_id=experiment.experiment_id,
                    job_name=run_name,
                    pipeline_package_path=pipeline_file_path,
                    cron_expression=with_seconds(snapshot.schedule.cron_expression),
                    max_concurrency=1,
                    no_catchup=True,
                    **common,
                )
                return SubmissionResult(metadata={RECURRING_RUN: recurring.recurring_run_id})
            run = client.run_pipeline(
                experiment.experiment_id, run_name, pipeline_package_path=pipeline_file_path, **common
            )
        wait = (lambda: self._wait(run.run_id, settings)) if settings.synchronous else None
        return SubmissionResult(wait_for_completion=wait, metadata={RUN_ID: run.run_id})

    def update_schedule(self, schedule: Any, update: Any) -> None:
        """Pause or resume; KFP cannot change the time of a recurring run."""
        if update.cron_expression:
            raise StackError("Kubeflow Pipelines cannot change the time of a recurring run; schedule it anew")
        with self._client(self._settings(None)) as client:
            switch = client.enable_recurring_run if update.active else client.disable_recurring_run
            switch(self._recurring_run(schedule))

    def delete_schedule(self, schedule: Any) -> None:
        """One that is gone already, or was never taken, is no error."""
        if RECURRING_RUN not in schedule.run_metadata:
            return
        with self._client(self._settings(None)) as client:
            try:
                client.delete_recurring_run(self._recurring_run(schedule))
            except ApiException as error:
                if error.status != 404:
                    raise

    def get_pipeline_run_metadata(self, run_id: Any) -> dict[str, Any]:
        """Asked by the first step of a scheduled run: what the run is called in KFP."""
        found = super().get_pipeline_run_metadata(run_id)
        return {**found, RUN_ID: os.environ[RUN_ID]} if RUN_ID in os.environ else found

    def fetch_status(
        self, run: Any, include_steps: bool = False
    ) -> tuple[ExecutionStatus | None, dict[str, ExecutionStatus] | None]:
        """What KFP knows of a run that ZenML takes to be under way; steps end with it."""
        with self._client(self._settings(run)) as client:
            state = client.get_run(_run_id(run)).state
        status = ENDED.get(state)
        under_way = {name: step for name, step in run.steps.items() if not step.status.is_finished}
        ended = dict.fromkeys(under_way, ExecutionStatus.FAILED if status else ExecutionStatus.RUNNING)
        return status, ended if include_steps else None

    def _stop_run(self, run: Any, graceful: bool = True) -> None:  # noqa: ARG002 - KFP has one way to stop
        with self._client(self._settings(run)) as client:
            client.terminate_run(_run_id(run))

    def _wait(self, run_id: str, settings: Text2SQLKubeflowSettings) -> None:
        failures = 0
        while True:
            try:
                with self._client(settings) as client:
                    run = client.get_run(run_id)
                failures = 0
            except StackError:
                failures += 1
                if failures > PATIENCE:
                    raise
                run = None
            if run is not None and run.state in ENDED:
                break
            time.sleep(settings.poll_seconds)
        if run.state == "FAILED":
            why = run.error.message if run.error else "no reason given"
            raise StackError(f"run {run_id} of Kubeflow Pipelines failed ({why}); its page there has each step's log")

    def _settings(self, of: Any) -> Text2SQLKubeflowSettings:
        """Of a snapshot, a step or a run; the component's own for None."""
        found = self.config if of is None else self.get_settings(of)
        return cast(Text2SQLKubeflowSettings, found)

    @staticmethod
    def _recurring_run(schedule: Any) -> str:
        found = schedule.run_metadata.get(RECURRING_RUN)
        if not found:
            raise StackError(f"schedule {schedule.name} has no recurring run in Kubeflow Pipelines; delete it there")
        return str(found)

    @contextmanager
    def _client(self, settings: Text2SQLKubeflowSettings) -> Iterator[Any]:
        """KFP's client, whose troubles are told in one line.

        Raises:
            StackError: the API cannot be reached, or refuses.
        """
        place = self.config.kubeflow_hostname or f"context {self.config.kubernetes_context}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # "works with KFP v2 only"
                client = self._get_kfp_client(settings)
            with redirect_stdout(sys.stderr):  # it prints where runs can be looked at
                yield client
        except ApiException as error:
            raise StackError(f"Kubeflow Pipelines ({place}) refuses: {_reason(error)}") from error
        except (HTTPError, OSError) as error:
            why = " ".join(str(error).split())[:200]
            raise StackError(f"Kubeflow Pipelines ({place}) cannot be reached: {why}") from error


class Text2SQLKubeflowFlavor(KubeflowOrchestratorFlavor):
    """Registered by `run.py --pipeline register-stack --stack kubeflow`."""

    @property
    def name(self) -> str:
        return FLAVOR

    @property
    def config_class(self) -> type[Text2SQLKubeflowConfig]:
        return Text2SQLKubeflowConfig

    @property
    def implementation_class(self) -> type[Text2SQLKubeflowOrchestrator]:
        return Text2SQLKubeflowOrchestrator


def with_seconds(cron: str) -> str:
    """Five fields as KFP reads six: the seconds first."""
    return f"0 {cron}"


def _run_id(run: Any) -> str:
    found = run.run_metadata.get(RUN_ID)
    if not found:
        raise StackError(f"run {run.name} did not get as far as Kubeflow Pipelines, or was started by another flavor")
    return str(found)


def _task_name(step: str) -> str:
    """As kfp names the task of a step."""
    return step.replace("_", "-")


def _reason(error: ApiException) -> str:
    import json

    try:
        body = json.loads(error.body or "{}")
    except ValueError:
        body = {}
    told = body.get("message") or body.get("error") if isinstance(body, dict) else None
    return f"{error.status} {error.reason}{f', {told}' if told else ''}"
