"""A stack's file as parts of a ZenML stack, and what must be there first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from stacks import register
from stacks.files import read_stack
from stacks.register import Registration, missing, parts_of
from stacks.spec import StackFile
from text2sql.errors import ConfigError, StackError


def mine(name: str = "kubernetes", **changes: Any) -> StackFile:
    """The shipped stack as a user fills it in."""
    filled = {"image": "r.test/trainer:1", "container_registry": "r.test"}
    return read_stack(name).model_copy(update={**filled, **changes})


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"name": "kubernetes"}
    config = {
        "current-context": "kubernetes",
        "clusters": [{**named, "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{**named, "user": {"token": "x"}}],
        "contexts": [{**named, "context": {"cluster": "kubernetes", "user": "kubernetes"}}],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))


def test_nothing_is_missing(kubeconfig: None, credentials: None):
    assert missing(mine(), server=True) == []
    assert missing(mine("kubeflow"), server=True) == []
    assert missing(read_stack("local"), server=False) == []


def test_everything_that_is_missing_at_once(kubeconfig: None, monkeypatch: pytest.MonkeyPatch):
    for variable in register.KEYS.values():
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(register, "_is_installed", lambda module: module not in ("s3fs", "kfp.kubernetes"))
    shipped = read_stack("kubernetes")
    place = shipped.orchestrator.model_copy(update={"context": "elsewhere"})
    found = missing(shipped.model_copy(update={"orchestrator": place}), server=False)
    assert found == [
        "the Python package s3fs is not installed; `make install` brings it",
        "no ZenML server: pods cannot reach a store on this machine; start one, and `zenml login URL`",
        "AWS_ACCESS_KEY_ID is not set; it goes into a ZenML secret",
        "AWS_SECRET_ACCESS_KEY is not set; it goes into a ZenML secret",
        "context 'elsewhere' is not in the kubeconfig; there are: kubernetes",
        "registry.example.com/text2sql is only an example; write your own registry",
        "registry.example.com/text2sql/trainer:0.1.0 is only an example; write your own registry",
    ]


def test_pods_with_an_identity_of_their_own_need_no_keys(kubeconfig: None, monkeypatch: pytest.MonkeyPatch):
    for variable in register.KEYS.values():
        monkeypatch.delenv(variable, raising=False)
    stack = mine()
    assert stack.artifact_store is not None
    ambient = stack.model_copy(
        update={"artifact_store": stack.artifact_store.model_copy(update={"credentials": "ambient"})}
    )
    assert missing(ambient, server=True) == []
    store = next(part for part in parts_of("k", ambient) if part.kind == "artifact_store")
    assert "authentication_secret" not in store.configuration


def test_no_kubeconfig_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, credentials: None):
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    [line] = missing(mine(), server=True)
    assert line == "context 'kubernetes': no kubeconfig here (KUBECONFIG, ~/.kube/config)"


def test_the_parts_of_a_stack():
    found = {part.kind: part for part in parts_of("kubernetes", mine())}
    assert list(found) == ["orchestrator", "artifact_store", "container_registry", "image_builder"]
    assert found["orchestrator"].configuration == {
        "kubernetes_context": "kubernetes",
        "kubernetes_namespace": "zenml",
        "incluster": False,
    }
    assert found["artifact_store"].configuration == {
        "path": "s3://text2sql-artifacts",
        "client_kwargs": {"endpoint_url": "http://minio.minio.svc.cluster.local:9000"},
        "authentication_secret": "kubernetes-artifact-store",
    }
    assert found["container_registry"].configuration == {"uri": "r.test"}


def test_without_a_server_nothing_is_created(zenml_client: Any, kubeconfig: None, credentials: None):
    before = zenml_client.list_stack_components(size=100).total
    with pytest.raises(ConfigError) as refused:
        register.register("never", mine(), dry_run=False)
    assert [problem.partition(":")[0] for problem in refused.value.problems] == ["stack never"]
    would = register.register("never", mine(), dry_run=True)
    assert [line for line in would if "would be created" in line] == would[:-1]
    assert would[-1].startswith("missing: no ZenML server")
    assert zenml_client.list_stack_components(size=100).total == before


@pytest.mark.filterwarnings("ignore:DELETE statement on table")  # ZenML's own clean-up
def test_a_local_stack_is_made_of_what_zenml_brings_along(zenml_client: Any):
    local = read_stack("local")
    try:
        first = register.register("mine", local, dry_run=False)
        again = register.register("mine", local, dry_run=False)
    finally:
        zenml_client.delete_stack("mine")
    assert first[-1] == "stack mine: created"
    assert [line for line in again if not line.endswith("as it should be")] == []


def test_a_component_of_that_name_and_another_flavor_is_left_alone(zenml_client: Any):
    taken = register.Part("orchestrator", "default", "kubernetes")
    with pytest.raises(StackError, match="is there with flavor local; delete it"):
        Registration(zenml_client, dry_run=False)._part(taken)
