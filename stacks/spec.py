"""What a file of stacks/ says: the parts of a ZenML stack, and what each step needs there.

One resource spec a step, whoever runs it: stacks/kubernetes.py and stacks/kubeflow.py render it.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, field_validator

from text2sql.config import Section
from text2sql.deployment.kubernetes.syntax import (
    check_env,
    check_image,
    check_label_key,
    check_label_name,
    check_label_value,
    check_name,
    check_quantity,
)

Quantity = Annotated[str, AfterValidator(check_quantity)]
Name = Annotated[str, AfterValidator(check_name)]
Namespace = Annotated[str, AfterValidator(check_label_name)]
LabelKey = Annotated[str, AfterValidator(check_label_key)]
LabelValue = Annotated[str, AfterValidator(check_label_value)]
Env = Annotated[str, AfterValidator(check_env)]
Image = Annotated[str, AfterValidator(check_image)]
Seconds = PositiveInt


def _mount(text: str) -> str:
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts or ":" in text or text == "/":
        raise ValueError(f"{text!r} is no place for a volume; write an absolute path such as /checkpoints")
    return text


def _secret_key(text: str) -> str:
    secret, slash, key = text.partition("/")
    if not (slash and secret and key):
        raise ValueError(f"{text!r} names no key of a secret; write secret/key")
    check_name(secret)
    return text


Mount = Annotated[str, AfterValidator(_mount)]
SecretKey = Annotated[str, AfterValidator(_secret_key)]


class Toleration(Section):
    """A taint that a step's pod puts up with."""

    key: LabelKey | None = None
    """The taint's key; with operator Exists none means every taint."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Exists asks for no value."""
    value: LabelValue | None = None
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """None means every effect."""

    def contradictions(self) -> list[str]:
        """What Kubernetes would refuse, a line each."""
        if self.operator == "Exists" and self.value:
            return [f"operator Exists takes no value, and it is {self.value!r}"]
        if self.operator == "Equal" and not self.key:
            return ["operator Equal needs a key; write operator: Exists to tolerate everything"]
        return []


SPREAD = "finetune"
"""The step that may run on several nodes."""


class Resources(Section):
    """What one step needs where it runs."""

    needs: str = ""
    """For people; --dry-run shows it."""
    gpus: NonNegativeInt = 0
    """GPUs, whole ones: requests equal limits."""
    nodes: PositiveInt = 1
    """finetune: pods that train together, each with all that is said here; they need JobSet in the cluster."""
    gpu_type: LabelValue | None = None
    """Value of the nodes' label orchestrator.gpu_label, e.g. NVIDIA-A10G; any GPU where it is left out."""
    cpu: Quantity | None = None
    """Cores: 500m, 4."""
    memory: Quantity | None = None
    """Memory, asked for and kept to: 32Gi."""
    shared_memory: Quantity | None = None
    """Size of /dev/shm, which counts as memory; data loaders and NCCL need more than the 64 MiB that pods get."""
    volumes: dict[Name, Mount] = Field(default_factory=dict)
    """Where persistent volume claims are mounted: {text2sql-work: /mnt/text2sql}."""
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints that the step's pod puts up with."""
    secrets: dict[Env, SecretKey] = Field(default_factory=dict)
    """Environment variables from secrets of the namespace: {HF_TOKEN: hub/token}."""
    environment: dict[Env, str] = Field(default_factory=dict)
    """Environment variables as they are."""
    service_account: Name | None = None
    """kubernetes: of the step's pod; the orchestrator's where it is left out."""
    retries: NonNegativeInt = 0
    """How often a step that failed is tried again; a node that goes away counts not on Kubernetes."""
    image: Image | None = None
    """The image that the step runs in; the stack's where it is left out."""

    def over(self, defaults: Resources) -> Resources:
        """These where they are given, the defaults elsewhere; mappings are added to those of the defaults."""
        given = {}
        for name in self.model_fields_set:
            mine, theirs = getattr(self, name), getattr(defaults, name)
            given[name] = {**theirs, **mine} if isinstance(mine, dict) else mine
        return defaults.model_copy(update=given)

    def contradictions(self) -> list[str]:
        """What cannot be as a whole, a line each."""
        found = []
        if self.gpu_type and not self.gpus:
            found.append(f"gpu_type {self.gpu_type!r} without a GPU; set gpus, or leave it out")
        if twice := sorted(set(self.secrets) & set(self.environment)):
            found.append(f"{', '.join(twice)}: both in secrets and in environment; leave one of them out")
        mounts = list(self.volumes.values())
        if shared := sorted({mount for mount in mounts if mounts.count(mount) > 1}):
            found.append(f"volumes: two claims at {', '.join(shared)}")
        for place, toleration in enumerate(self.tolerations):
            found += [f"tolerations.{place}: {problem}" for problem in toleration.contradictions()]
        return found


class Orchestrator(Section):
    """Who runs the steps."""

    kind: Literal["local", "kubernetes", "kubeflow"]
    """local: this process; kubernetes: a Job a step; kubeflow: Kubeflow Pipelines."""
    context: str | None = None
    """Context of the kubeconfig; the cluster's own configuration is taken where ZenML runs in it."""
    namespace: Namespace = "zenml"
    """Where Jobs and CronJobs are made. For kubeflow: where Kubeflow Pipelines itself is."""
    host: str | None = None
    """kubeflow: address of the KFP API, reachable from pods too; through the context's proxy where it is left out."""
    user_namespace: Namespace | None = None
    """kubeflow: the profile's namespace of a multi-user deployment."""
    service_account: Name | None = None
    """Of the pod that starts the steps' Jobs; left out, ZenML makes one with edit rights. kubeflow: of all pods."""
    gpu_resource: LabelKey = "nvidia.com/gpu"
    """The extended resource that counts GPUs."""
    gpu_label: LabelKey = "nvidia.com/gpu.product"
    """The label by which nodes tell their GPU type."""
    nodes: Literal["fixed", "autoscaled"] = "fixed"
    """fixed: a GPU type that no node has is found before a run starts; autoscaled: such a node may yet come."""
    pod_security: Literal["baseline", "restricted"] = "baseline"
    """restricted: for namespaces that enforce it; ZenML then writes unknown null fields, and the API server warns."""
    stop_seconds: Seconds = 120
    """Grace period of a pod that is told to stop: time to save a checkpoint."""
    keep_seconds: Seconds = 7 * 24 * 3600
    """How long finished Jobs are kept."""

    def contradictions(self) -> list[str]:
        """What cannot be as a whole, a line each."""
        if self.kind == "kubeflow" and self.context and self.host:
            return ["context and host are two ways to the KFP API; leave one out"]
        return []


class ArtifactStore(Section):
    """Where artifacts lie."""

    uri: Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?$")]
    """s3://bucket or s3://bucket/folder."""
    endpoint: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """Address of MinIO or of another store that speaks S3; Amazon's where it is left out."""
    region: str | None = None
    """Region of the bucket."""
    credentials: Literal["environment", "ambient"] = "environment"
    """environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go into a ZenML secret when the stack is registered;
    ambient: pods have an identity of their own (IRSA, an instance role)."""


class ScheduleLimits(Section):
    """How scheduled runs are kept in bounds. Two of them never run at once."""

    starting_deadline_seconds: Seconds = 3600
    """A run that could not start at its time may start this much later; after that it is left out."""
    deadline_seconds: Seconds = 24 * 3600
    """A run that takes longer is ended."""
    keep_successful: NonNegativeInt = 3
    """Finished Jobs kept."""
    keep_failed: NonNegativeInt = 3
    """Failed Jobs kept."""


class StackFile(Section):
    """A file of stacks/, which is named as the ZenML stack is."""

    orchestrator: Orchestrator
    image: Image | None = None
    """The trainer image, built before (docs/kubernetes.md); nothing is built when a run starts."""
    artifact_store: ArtifactStore | None = None
    """S3 or MinIO; ZenML's local store where it is left out."""
    container_registry: str | None = None
    """Registry of the image, without a scheme: registry.example.com/team."""
    schedule: ScheduleLimits = ScheduleLimits()
    defaults: Resources = Resources()
    """What every step needs."""
    steps: dict[str, Resources] = Field(default_factory=dict)
    """What single steps need instead of that."""

    @field_validator("container_registry")
    @classmethod
    def _without_a_scheme(cls, value: str | None) -> str | None:
        if value is not None and "://" in value:
            raise ValueError(f"write the registry without a scheme: {value.partition('://')[2]}")
        return value

    @property
    def is_remote(self) -> bool:
        """Whether steps run elsewhere."""
        return self.orchestrator.kind != "local"

    def of(self, step: str) -> Resources:
        """What a step needs, defaults included."""
        return self.steps.get(step, Resources()).over(self.defaults)

    def contradictions(self) -> list[str]:
        """What each part allows alone and the whole does not, a line each."""
        found = [f"orchestrator: {problem}" for problem in self.orchestrator.contradictions()]
        found += [f"defaults: {problem}" for problem in self.defaults.contradictions()]
        for name in ("defaults", *self.steps):
            found += [f"{name if name == 'defaults' else f'steps.{name}'}: {p}" for p in self._on_nodes(name)]
        for name in self.steps:
            wrong = [p for p in self.of(name).contradictions() if p not in self.defaults.contradictions()]
            found += [f"steps.{name}: {problem}" for problem in wrong]
        if self.is_remote:
            for key, remedy in (
                ("image", "the trainer image, with a tag"),
                ("artifact_store", "s3://bucket, which the steps share"),
                ("container_registry", "where the image lies"),
            ):
                if getattr(self, key) is None:
                    found.append(f"{key}: a {self.orchestrator.kind} stack needs one: {remedy}")
        return found

    def _on_nodes(self, name: str) -> list[str]:
        """What is wrong with several nodes, a line each."""
        nodes = self.defaults.nodes if name == "defaults" else self.steps[name].nodes
        if nodes == 1:
            return []
        if name != SPREAD:
            return [f"nodes {nodes}: {SPREAD} alone runs on several nodes"]
        if not self.is_remote:
            return [f"nodes {nodes}: a local stack has one; leave it out, or take a stack of a cluster"]
        if not self.of(name).volumes:
            return [f"nodes {nodes} without a volume: rows and checkpoints lie on one that all mount; set volumes"]
        return []
