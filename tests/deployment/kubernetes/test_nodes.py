"""Training on several nodes: a JobSet whose pods are processes here. It is made, watched, and never left behind."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from stacks.files import parse_stack
from stacks.nodes import training_job
from tests.deployment.kubernetes.jobsets import UNSCHEDULED, JobSets
from tests.training_fixtures import splits, tiny_settings
from text2sql.config import Settings
from text2sql.deployment.kubernetes.api import Cluster
from text2sql.deployment.kubernetes.nodes import (
    NAMESPACE,
    POD,
    TEMPLATE,
    UID,
    Pace,
    Watch,
    check_shared,
    complete,
    finetune_on_nodes,
    size_of,
)
from text2sql.errors import ModelError, TrainingError, TrainingInterrupted
from text2sql.training.checkpoints import StopRequest
from text2sql.training.distributed import finetune_here
from text2sql.training.finetune import TrainedAdapter

SPACE = "training"
PACE = Pace(poll=0.02, told=0.05, stuck=0.2, start=0.4)
QUIET = [sys.executable, "-c", "print('step 1 of 2'); print('step 2 of 2')"]
FAILS = [sys.executable, "-c", "import sys; print('RuntimeError: the card fell off the bus'); sys.exit(1)"]
WAITS = [sys.executable, "-c", "import time; print('waiting', flush=True); time.sleep(60)"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[JobSets]:
    server = JobSets(tmp_path)
    yield server
    server.close()


def template(volume: Path | str = "/mnt/shared", **finetune: Any) -> dict[str, Any]:
    stack = {
        "orchestrator": {"kind": "kubernetes", "stop_seconds": 20},
        "image": "r.example.com/trainer:1",
        "container_registry": "r.example.com",
        "artifact_store": {"uri": "s3://bucket"},
        "steps": {"finetune": {"nodes": 2, "volumes": {"work": str(volume)}, **finetune}},
    }
    return training_job(parse_stack(stack, "f.yaml"), "finetune")


def watch(server: JobSets, told: list[str] | None = None, uid: str = "1") -> Watch:
    job = complete(template(), "text2sql-0a1b", ("finetune-pod", uid), QUIET)
    return Watch(Cluster(server.client(), SPACE, 0.5), job, PACE, (told if told is not None else []).append)


def outcome(server: JobSets, told: list[str] | None = None) -> TrainingError | None:
    """How a run ends; nothing is left of it then."""
    watched = watch(server, told)
    watched.make_room()
    failure = watched.run(StopRequest())
    assert server.objects[SPACE, "jobsets"] == {}
    assert not server.controller.pods
    return failure


def test_the_first_nodes_lines_are_told_once_each(server: JobSets):
    told: list[str] = []
    assert outcome(server, told) is None
    assert told == ["JobSet text2sql-0a1b: 2 nodes", "step 1 of 2", "step 2 of 2"]


def test_it_belongs_to_the_pod_that_made_it(server: JobSets):
    made = complete(template(), "n", ("finetune-pod", "1"), QUIET)
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "finetune-pod", "uid": "1"}
    assert made["metadata"]["ownerReferences"] == [owner]


def test_a_node_that_fails_ends_all_and_says_why(server: JobSets):
    server.controller.programs = {0: WAITS, 1: FAILS}
    told: list[str] = []
    line = str(outcome(server, told))
    assert line.startswith("JobSet text2sql-0a1b failed (jobset failed due to one or more job failures); train said: ")
    assert line.endswith("train said: RuntimeError: the card fell off the bus")
    assert any("the card fell off the bus" in words for words in told)


def test_a_node_that_is_placed_nowhere(server: JobSets):
    server.controller.programs = {0: WAITS, 1: UNSCHEDULED}
    told: list[str] = []
    line = str(outcome(server, told))
    assert "text2sql-0a1b is not up after 0 s: 1 of 2 nodes run; pod text2sql-0a1b-node-0-1-x7k2p is placed" in line
    assert "event FailedScheduling: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu." in line
    assert [words for words in told if words.startswith("0 s: 1 of 2 nodes run; pod")]


def meanwhile(server: JobSets, act: Callable[[], Any]) -> None:
    """Once the pods run."""

    def wait() -> None:
        while not any("waiting" in pod.log.read_text() for pod in server.controller.pods if pod.log.exists()):
            time.sleep(0.01)
        act()

    threading.Thread(target=wait).start()


def test_somebody_deletes_it(server: JobSets):
    server.controller.programs = {0: WAITS, 1: WAITS}
    meanwhile(server, server.objects.setdefault((SPACE, "jobsets"), {}).clear)
    assert str(outcome(server)) == "somebody has deleted JobSet text2sql-0a1b meanwhile"


def test_sigterm_takes_it_away(server: JobSets):
    server.controller.programs = {0: WAITS, 1: WAITS}
    stop = StopRequest()
    meanwhile(server, lambda: setattr(stop, "asked", True))
    failure = watch(server).run(stop)
    assert isinstance(failure, TrainingInterrupted)
    assert not server.controller.pods
    assert server.controller.ended == {"text2sql-0a1b"}


@pytest.mark.parametrize(("status", "words"), [(404, "install JobSet"), (403, "bind Role text2sql-nodes")])
def test_a_cluster_that_makes_none(server: JobSets, status: int, words: str):
    server.errors["POST", "jobsets"] = status
    with pytest.raises(TrainingError, match=f"^no JobSet can be made; {words}"):
        outcome(server)


def test_what_a_killed_pod_has_left_makes_room(server: JobSets):
    """It is Failed and not deleted, so that its JobSet is still there."""
    left = complete(template(), "text2sql-0a1b", ("killed-pod", "0"), WAITS)
    server.add("pods", "killed-pod", SPACE, metadata={"uid": "0"}, status={"phase": "Failed"})
    server.objects[SPACE, "jobsets"] = {"text2sql-0a1b": left}
    told: list[str] = []
    assert outcome(server, told) is None
    assert told[0] == "taking JobSet text2sql-0a1b away, whose pod killed-pod is gone"


def test_a_pod_that_lives_is_not_robbed(server: JobSets):
    server.add("pods", "other-pod", SPACE, metadata={"uid": "0"}, status={"phase": "Running"})
    left = complete(template(), "text2sql-0a1b", ("other-pod", "0"), WAITS)
    server.objects[SPACE, "jobsets"] = {"text2sql-0a1b": left}
    with pytest.raises(TrainingError, match="pod other-pod is training just this on JobSet text2sql-0a1b"):
        watch(server).make_room()
    assert "text2sql-0a1b" in server.objects[SPACE, "jobsets"]


def test_of_two_that_begin_at_once_one_trains(server: JobSets):
    late = watch(server)
    late.make_room()
    server.objects[SPACE, "jobsets"] = {"text2sql-0a1b": complete(template(), "text2sql-0a1b", ("other", "0"), WAITS)}
    with pytest.raises(TrainingError, match="pod other is training just this"):
        late.run(StopRequest())
    assert "text2sql-0a1b" in server.objects[SPACE, "jobsets"], "it is not ours to take away"


def test_an_answer_that_was_lost_does_not_matter(server: JobSets):
    """The request is repeated, and the JobSet is there already."""
    watched = watch(server)
    watched.make_room()
    server.objects[SPACE, "jobsets"] = {"text2sql-0a1b": complete(template(), "text2sql-0a1b", ("pod", "1"), QUIET)}
    assert watched.run(StopRequest()) is None


def test_the_size_of_a_job():
    assert size_of(template(), None) == (2, 1), "without GPUs, a process a node"
    assert size_of(template(gpus=4, nodes=3), None) == (3, 4)
    assert size_of(template(gpus=4), 2) == (2, 2)


def test_checkpoints_that_other_nodes_would_not_see(tiny_model: Path, tmp_path: Path):
    settings = tiny_settings(tiny_model, tmp_path)
    check_shared(template(tmp_path), settings)
    with pytest.raises(TrainingError, match=r"no volume that the nodes share \(/mnt/shared\); --set .*=/mnt/shared/c"):
        check_shared(template(shared_memory="1Gi"), settings)


def losses(trained: TrainedAdapter, key: str) -> dict[float, float]:
    return {entry["step"]: entry[key] for entry in trained.history if key in entry}


@pytest.fixture
def environment(server: JobSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Of the pod of the finetune step."""
    named = {"name": "c"}
    config = {
        "current-context": "c",
        "clusters": [{**named, "cluster": {"server": server.host}}],
        "users": [{**named, "user": {"token": "of-the-tests"}}],
        "contexts": [{**named, "context": {"cluster": "c", "user": "c"}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return {TEMPLATE: json.dumps(template(tmp_path)), POD: "finetune-pod", UID: "1", NAMESPACE: SPACE}


@pytest.mark.slow
def test_the_losses_on_two_nodes_are_those_of_one_process(
    tiny_model: Path, tmp_path: Path, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """48 rows, 4 x 2 a step with one process and 4 x 1 each with two; only the first writes, and cleans up."""
    # each process would draw its own dropout
    settings: Settings = tiny_settings(tiny_model, tmp_path, lora={"lora_dropout": 0.0}, training={"processes": 1})
    one = finetune_here(splits(), settings, tmp_path / "adapter-1")
    two = finetune_on_nodes(splits(), settings, tmp_path / "adapter-2", environment, Pace(poll=0.2))
    assert (two.path, two.steps, two.resumed_from) == (tmp_path / "adapter-2", one.steps, None)
    for key, tolerance in (("loss", 1e-3), ("eval_loss", 1e-2), ("grad_norm", 1e-2), ("tokens", 0)):
        assert losses(two, key) == pytest.approx(losses(one, key), rel=tolerance), key
    ours, theirs = (load_file(t.path / "adapter_model.safetensors") for t in (two, one))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-2, atol=2e-3)
    assert not list((tmp_path / "checkpoints").iterdir())
    assert "2 processes" in capsys.readouterr().err, "the first node's lines are told here"


def test_what_a_process_said_is_raised(
    server: JobSets, tiny_model: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    said = "import json, pathlib, sys; [job] = pathlib.Path(sys.argv[1]).glob('text2sql-*');"
    said += "(job / 'error-1.json').write_text(json.dumps(['ModelError', 'no such model'])); sys.exit(1)"
    settings = tiny_settings(tiny_model, tmp_path)
    server.controller.programs = {0: WAITS, 1: [sys.executable, "-c", said, str(settings.training.checkpoint_dir)]}
    with pytest.raises(ModelError, match="^no such model$"):
        finetune_on_nodes(splits(), settings, tmp_path / "adapter", environment, PACE)
    assert not list((tmp_path / "checkpoints").iterdir())
