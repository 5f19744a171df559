"""One training on several nodes: a JobSet with a torchrun a pod, made and watched by the pod of the finetune step.

Rows, checkpoints and the adapter pass through training.checkpoint_dir, which all of them mount. What the pods look like
comes with this pod's environment, from stacks/nodes.py. The JobSet is this pod's own: it goes when this pod goes.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from text2sql.deployment.kubernetes.api import Cluster, Manifest, Refused
from text2sql.deployment.kubernetes.needs import devices
from text2sql.deployment.kubernetes.rollout import containers, evidence, last_end, of_pod
from text2sql.errors import DeploymentError, TrainingError, TrainingInterrupted

if TYPE_CHECKING:
    from datasets import DatasetDict

    from text2sql.config import Settings
    from text2sql.deployment.checks import Tell
    from text2sql.training.checkpoints import StopRequest
    from text2sql.training.finetune import TrainedAdapter

TEMPLATE = "TEXT2SQL_TRAINING_JOB"
"""Environment variable: the JobSet as JSON, without its name, owner and command."""
POD, UID, NAMESPACE = "TEXT2SQL_POD", "TEXT2SQL_POD_UID", "TEXT2SQL_POD_NAMESPACE"
"""Environment variables of the same pod: who it is."""
NODE, CONTAINER = "node", "train"
"""Names of the JobSet's one Job, and of its pods' one container."""
INDEX = "batch.kubernetes.io/job-completion-index"
"""Label of a pod: its number."""
GROUP = "jobset.x-k8s.io/v1alpha2"
NEEDED = "install JobSet (https://jobset.sigs.k8s.io), which Kubeflow Trainer brings along"
PERMISSION = "bind Role text2sql-nodes to the service account of the finetune step (docs/kubernetes.md)"
ALIVE = ("Pending", "Running")
PATIENCE = 600.0
"""Seconds without an API server, after which the training is given up: as long as an upgrade of one takes."""


@dataclass(frozen=True)
class Pace:
    """How long things may take, in seconds."""

    poll: float = 3.0
    told: float = 30.0
    """Between two lines on pods that do not run yet."""
    stuck: float = 300.0
    """What hardly resolves by itself, such as an image that cannot be pulled, is given this long."""
    start: float = 1800.0
    """In which all pods must run; an autoscaler makes nodes in some minutes."""


def finetune_on_nodes(
    splits: DatasetDict,
    settings: Settings,
    output: Path,
    environment: Mapping[str, str] = os.environ,
    pace: Pace = Pace(),
) -> TrainedAdapter:
    """Fine-tune in the pods that the environment describes; arguments and errors as of `finetune`."""
    from text2sql.training.callbacks import tell
    from text2sql.training.checkpoints import StopRequest, writing
    from text2sql.training.distributed import read_result, share_of_step, torchrun, write_job
    from text2sql.training.finetune import fingerprint_of

    template: Manifest = json.loads(environment[TEMPLATE])
    check_shared(template, settings)
    nodes, count = size_of(template, settings.training.processes)
    share_of_step(settings.training, nodes * count)
    name = f"text2sql-{fingerprint_of(splits, settings)}"
    folder = settings.training.checkpoint_dir / f"{name}-{environment[UID]}"
    command = torchrun(folder, count, nodes, first=f"{name}-{NODE}-0-0.{name}")
    job = complete(template, name, (environment[POD], environment[UID]), command)
    watch = Watch(Cluster.connect(environment[NAMESPACE], patience=PATIENCE), job, pace, tell)
    with StopRequest() as stop:
        watch.make_room()
        with writing(folder):
            folder.mkdir(parents=True)
        try:
            write_job(folder, splits, settings, folder / "adapter")
            silent = watch.run(stop) or TrainingError(f"JobSet {name} completed and left no result in {folder}")
            trained = read_result(folder, silent)
            with writing(output):
                shutil.copytree(trained.path, output)
            for left in folder.parent.glob(f"{name}-*"):  # by pods that were killed
                shutil.rmtree(left, ignore_errors=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return replace(trained, path=output)


def check_shared(template: Manifest, settings: Settings) -> None:
    """Raises TrainingError where training.checkpoint_dir is on no volume that all nodes mount."""
    pod = _pod(template)
    claims = {volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume}
    mounts = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if mount["name"] in claims]
    found = settings.training.checkpoint_dir
    if not any(found.is_relative_to(mount) for mount in mounts):
        raise TrainingError(
            f"training.checkpoint_dir {str(found)!r} is on no volume that the nodes share ({', '.join(mounts)}); "
            f"--set training.checkpoint_dir={mounts[0]}/checkpoints"
        )


def size_of(job: Manifest, processes: int | None) -> tuple[int, int]:
    """Nodes, and processes on each: `processes` where that is given, else one a GPU, else one."""
    nodes: int = job["spec"]["replicatedJobs"][0]["template"]["spec"]["completions"]
    return nodes, processes or sum(devices(_pod(job)).values()) or 1


def complete(template: Manifest, name: str, owner: tuple[str, str], command: list[str]) -> Manifest:
    """A JobSet that can be created; `owner` is name and uid of a pod."""
    job = copy.deepcopy(template)
    reference = {"apiVersion": "v1", "kind": "Pod", "name": owner[0], "uid": owner[1]}
    job["metadata"] |= {"name": name, "ownerReferences": [reference]}
    _pod(job)["containers"][0]["command"] = command
    return job


def _pod(job: Manifest) -> Manifest:
    found: Manifest = job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    return found


class Watch:
    """One JobSet, from its creation to its end."""

    def __init__(self, cluster: Cluster, job: Manifest, pace: Pace, tell: Tell) -> None:
        self._cluster, self._job, self._pace, self._tell = cluster, job, pace, tell
        self._name, self._nodes = job["metadata"]["name"], size_of(job, 1)[0]
        self._grace = float(_pod(job)["terminationGracePeriodSeconds"])
        self._begun = self._told_at = time.monotonic()
        self._stuck_since: dict[str, float] = {}
        self._read = ""
        """Time of the last line of the first pod's log that was told."""

    def make_room(self) -> None:
        """Take away what a pod that was killed has left of the same training; a killed pod is not deleted.

        Raises:
            TrainingError: the pod is alive, or what is left does not go.
        """
        if (owner := self._owner()) is not None:
            pod = self._cluster.get("Pod", owner.get("name", "")) or {"metadata": {}, "status": {}}
            if pod["metadata"].get("uid") == owner.get("uid") and pod["status"].get("phase") in ALIVE:
                raise self._taken(owner)
            self._tell(f"taking JobSet {self._name} away, whose pod {owner.get('name')} is gone")
            self._cluster.delete("JobSet", self._name)
        if not self._gone(self._grace + self._pace.told):
            raise TrainingError(f"pods of an earlier JobSet {self._name} do not end; delete them")

    def _owner(self) -> Manifest | None:
        """Of the JobSet of this name; None where there is no such JobSet."""
        found = self._cluster.get("JobSet", self._name)
        return None if found is None else (found["metadata"].get("ownerReferences") or [{}])[0]

    def _taken(self, owner: Manifest) -> TrainingError:
        who = f"pod {owner.get('name')} is training just this on JobSet {self._name}"
        return TrainingError(f"{who}; wait for it, or delete it")

    def run(self, stop: StopRequest) -> TrainingError | None:
        """Create it, wait for its end, and delete it; why it did not complete, or None where it did.

        Raises:
            TrainingError: it cannot be created.
        """
        self._create()
        failure = None
        try:
            while not self._completed(stop):
                time.sleep(self._pace.poll)
        except TrainingError as error:
            failure = error
        finally:
            with contextlib.suppress(DeploymentError):  # it goes with this pod, too
                self._cluster.delete("JobSet", self._name)
                self._gone(self._grace if failure else 0)
        return failure

    def _create(self) -> None:
        self._begun = self._told_at = time.monotonic()
        try:
            if not self._cluster.create(self._job):  # another's, or ours: an answer may be lost on its way
                owner = self._owner() or {}
                if owner.get("uid") != self._job["metadata"]["ownerReferences"][0]["uid"]:
                    raise self._taken(owner)
        except Refused as error:
            remedy = {403: PERMISSION, 404: NEEDED}.get(error.status)
            raise TrainingError(f"no JobSet can be made; {remedy}" if remedy else str(error)) from error
        self._tell(f"JobSet {self._name}: {self._nodes} nodes")

    def _completed(self, stop: StopRequest) -> bool:
        """Whether it has; what keeps it from that is raised."""
        found, pods = self._cluster.get("JobSet", self._name), self._pods()
        self._follow(pods)
        if stop.asked:
            raise TrainingInterrupted("stopped by SIGTERM; the same command goes on from the nodes' last checkpoint")
        if found is None:
            raise TrainingError(f"somebody has deleted JobSet {self._name} meanwhile")
        states = {c["type"]: c for c in (found.get("status") or {}).get("conditions") or [] if c["status"] == "True"}
        if "Failed" in states:
            raise self._failure(f"failed ({states['Failed'].get('message', '')})", pods)
        if "Completed" not in states:
            self._check_start(pods)
        return "Completed" in states

    def _check_start(self, pods: list[Manifest]) -> None:
        """Raises TrainingError where pods do not come up."""
        now = time.monotonic()
        seconds = now - self._begun
        up = [pod for pod in pods if pod["status"].get("phase") not in (None, "Pending")]
        troubles = [trouble for pod in pods for trouble in of_pod(pod)]
        self._stuck_since = {t.about: self._stuck_since.get(t.about, now) for t in troubles if t.stuck}
        words = "; ".join([f"{len(up)} of {self._nodes} nodes run", *(trouble.words for trouble in troubles)])
        if any(now - since > self._pace.stuck for since in self._stuck_since.values()):
            raise self._failure(f"does not come up: {words}", pods)
        if len(up) < self._nodes and seconds > self._pace.start:
            raise self._failure(f"is not up after {seconds:.0f} s: {words}", pods)
        if len(up) < self._nodes and now - self._told_at > self._pace.told:
            self._told_at = now
            self._tell(f"{seconds:.0f} s: {words}")

    def _failure(self, how: str, pods: list[Manifest]) -> TrainingError:
        """In one line, with events and last words of the pods; more of these is told."""
        job = {"metadata": {"name": f"{self._name}-{NODE}-0"}}  # which says why it can make no pods
        ends = {pod["metadata"]["name"]: _ended_at(pod) for pod in pods}
        first = min(filter(None, ends.values()), default="")  # those that ended later were told to
        try:
            short, lines = evidence(self._cluster, [job, *(p for p in pods if ends[p["metadata"]["name"]] <= first)])
        except DeploymentError as error:
            short, lines = f"its events and logs cannot be read: {error}", []
        for line in lines:
            self._tell(line)
        return TrainingError("; ".join(part for part in (f"JobSet {self._name} {how}", short) if part))

    def _follow(self, pods: list[Manifest]) -> None:
        """Tell what the first of the processes has said since."""
        for pod in pods:
            if pod["metadata"]["labels"].get(INDEX) == "0":
                for stamp, words in self._cluster.log_after(pod["metadata"]["name"], CONTAINER, self._read):
                    self._read = stamp
                    self._tell(words)

    def _gone(self, seconds: float) -> bool:
        """Whether its pods have ended within that time."""
        deadline = time.monotonic() + seconds
        while pods := self._pods():
            self._follow(pods)
            if time.monotonic() > deadline:
                return False
            time.sleep(self._pace.poll)
        return True

    def _pods(self) -> list[Manifest]:
        return self._cluster.list("Pod", labelSelector=f"jobset.sigs.k8s.io/jobset-name={self._name}")


def _ended_at(pod: Manifest) -> str:
    """When its container ended; "" while it has not."""
    return max((str(last_end(container).get("finishedAt", "")) for container in containers(pod)), default="")
