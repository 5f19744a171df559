"""The files of stacks/: all of them valid, and everything that is wrong with one told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines import PIPELINES
from stacks import files
from stacks.files import parse_stack, read_stack, shipped
from stacks.spec import Resources
from text2sql.errors import StackError

REMOTE = {
    "orchestrator": {"kind": "kubernetes"},
    "image": "r.example.com/trainer:1",
    "container_registry": "r.example.com",
    "artifact_store": {"uri": "s3://bucket"},
}


def problems(**changes: Any) -> list[str]:
    with pytest.raises(StackError) as wrong:
        parse_stack({**REMOTE, **changes}, "f.yaml")
    lines = str(wrong.value).splitlines()
    assert all(line.startswith("f.yaml: ") for line in lines)
    return [line.removeprefix("f.yaml: ") for line in lines]


def test_shipped_stacks_are_valid_and_name_real_steps():
    known = {step for entry in PIPELINES.values() for step in entry.steps}
    assert shipped() == ["kubeflow", "kubernetes", "local"]
    for name in shipped():
        assert set(read_stack(name).steps) <= known


@pytest.mark.parametrize("name", ["kubernetes", "kubeflow"])
def test_only_steps_with_a_model_get_a_gpu(name: str):
    stack = read_stack(name)
    with_gpu = {step for entry in PIPELINES.values() for step in entry.steps if stack.of(step).gpus}
    assert with_gpu == {"finetune", "merge", "evaluate"}


def test_an_unknown_stack_is_one_line():
    with pytest.raises(StackError, match=r"^no stack 'gpu': .*there are: kubeflow, kubernetes, local$"):
        read_stack("gpu")


def test_all_values_that_kubernetes_would_refuse_at_once():
    found = problems(
        image="trainer:latest",
        container_registry="https://r.example.com",
        orchestrator={"kind": "kubernetes", "namespace": "A_b"},
        schedule={"deadline_seconds": 0},
        steps={
            "finetune": {
                "memory": "32GB",
                "gpus": -1,
                "gpu_typ": "A10G",
                "node_selector": {"a/b/c": "x/y"},
                "tolerations": [{"key": "a", "operator": "exists"}],
                "secrets": {"HF-TOKEN": "token"},
                "volumes": {"Work": "work"},
            }
        },
    )
    told = "\n".join(found)
    for words in (
        "image: 'trainer:latest' may be another image tomorrow",
        "write the registry without a scheme: r.example.com",
        "orchestrator.namespace: 'A_b' is no DNS label",
        "schedule.deadline_seconds = 0: Input should be greater than 0",
        "steps.finetune.memory: '32GB' is no Kubernetes quantity; write 32Gi",
        "steps.finetune.gpus = -1",
        "unknown key steps.finetune.gpu_typ (= 'A10G')",
        "'a/b/c' is no label key",
        "'x/y' is no label value",
        "steps.finetune.tolerations.0.operator = 'exists'",
        "'HF-TOKEN' is no name for an environment variable",
        "'token' names no key of a secret; write secret/key",
        "'Work' is no Kubernetes name",
        "'work' is no place for a volume",
    ):
        assert words in told, words
    assert len(found) == 14


def test_what_does_not_go_together_at_once():
    found = problems(
        image=None,
        artifact_store=None,
        steps={
            "finetune": {
                "gpu_type": "A10G",
                "tolerations": [{"operator": "Exists", "value": "x"}, {"value": "x"}],
                "secrets": {"A": "s/k"},
                "environment": {"A": "1"},
                "volumes": {"a": "/x", "b": "/x"},
            }
        },
    )
    assert found == [
        "steps.finetune: gpu_type 'A10G' without a GPU; set gpus, or leave it out",
        "steps.finetune: A: both in secrets and in environment; leave one of them out",
        "steps.finetune: volumes: two claims at /x",
        "steps.finetune: tolerations.0: operator Exists takes no value, and it is 'x'",
        "steps.finetune: tolerations.1: operator Equal needs a key; write operator: Exists to tolerate everything",
        "image: a kubernetes stack needs one: the trainer image, with a tag",
        "artifact_store: a kubernetes stack needs one: s3://bucket, which the steps share",
    ]


def test_nodes_where_there_cannot_be_several():
    two = {"nodes": 2, "volumes": {"work": "/work"}}
    assert problems(defaults=two) == ["defaults: nodes 2: finetune alone runs on several nodes"]
    assert problems(steps={"merge": two, "finetune": {"nodes": 2}}) == [
        "steps.merge: nodes 2: finetune alone runs on several nodes",
        "steps.finetune: nodes 2 without a volume: rows and checkpoints lie on one that all mount; set volumes",
    ]
    assert problems(orchestrator={"kind": "local"}, steps={"finetune": two}) == [
        "steps.finetune: nodes 2: a local stack has one; leave it out, or take a stack of a cluster"
    ]
    assert problems(steps={"finetune": {**two, "nodes": 0}}) == [
        "steps.finetune.nodes = 0: Input should be greater than 0"
    ]
    assert parse_stack({**REMOTE, "steps": {"finetune": two}}, "f.yaml").of("finetune").nodes == 2


def test_two_ways_to_the_kfp_api():
    [line] = problems(orchestrator={"kind": "kubeflow", "context": "c", "host": "http://kfp"})
    assert line == "orchestrator: context and host are two ways to the KFP API; leave one out"


def test_a_key_that_stands_twice_and_a_file_that_is_no_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    (tmp_path / "twice.yaml").write_text("orchestrator: {kind: local}\norchestrator: {kind: local}\n")
    (tmp_path / "broken.yaml").write_text("orchestrator: {kind: local\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    for name, words in (("twice", "'orchestrator' is there twice"), ("broken", "cannot be read"), ("list", "file")):
        with pytest.raises(StackError, match=words) as wrong:
            read_stack(name)
        assert len(str(wrong.value).splitlines()) == 1


def test_a_step_adds_to_mappings_and_replaces_the_rest():
    stack = parse_stack(
        {
            **REMOTE,
            "defaults": {"cpu": "2", "memory": "4Gi", "environment": {"A": "1", "B": "1"}, "volumes": {"a": "/a"}},
            "steps": {"merge": {"memory": "8Gi", "environment": {"B": "2"}, "volumes": {"b": "/b"}}},
        },
        "f.yaml",
    )
    merged = stack.of("merge")
    assert (merged.cpu, merged.memory) == ("2", "8Gi")
    assert merged.environment == {"A": "1", "B": "2"}
    assert merged.volumes == {"a": "/a", "b": "/b"}
    assert stack.of("ingest") == stack.defaults
    assert Resources().over(stack.defaults) == stack.defaults
