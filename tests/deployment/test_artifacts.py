"""Models in an object store: what is fetched is what was judged, or nothing is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fsspec
import pytest
from typer.testing import CliRunner

from tests.stacks import servers
from text2sql.__main__ import app
from text2sql.data.files import sha256_folder
from text2sql.deployment.artifacts import MANIFEST, fetch, store
from text2sql.errors import ModelError, OutputError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(os.urandom(50_000))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "text2sql.json").write_text("{}")
    (folder / "sub" / "more.json").write_text("[]")
    return folder


@pytest.fixture
def bucket() -> Any:
    """A store of another kind than files."""
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/bucket", recursive=True)


@pytest.fixture
def stored(model: Path, bucket: Any) -> str:
    return store(model, sha256_folder(model), "memory://bucket/models/")


def test_what_was_stored_comes_back(model: Path, stored: str, tmp_path: Path):
    digest = sha256_folder(model)
    assert stored == f"memory://bucket/models/{digest}"
    place = fetch(stored, digest, tmp_path / "models")
    assert place == tmp_path / "models" / digest
    assert sha256_folder(place) == digest
    assert [path.name for path in place.parent.iterdir()] == [digest]


def test_an_s3_store_is_found_by_the_environment_that_the_pods_have(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The Secret artifact-store of k8s/, against a server that speaks S3."""
    with servers.s3_store() as address:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.SECRET)
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        digest = sha256_folder(model)
        source = store(model, digest, f"s3://{servers.BUCKET}/models")
        assert sha256_folder(fetch(source, digest, tmp_path / "models")) == digest
        small = fetch(source, digest, tmp_path / "prompts", without_weights=True)
        assert not (small / "model.safetensors").exists()
        with pytest.raises(ModelError, match="holds no model|cannot be read"):
            fetch(f"s3://{servers.BUCKET}/nowhere", digest, tmp_path / "none")


def test_what_is_there_is_not_fetched_again(model: Path, stored: str, bucket: Any, tmp_path: Path):
    digest = sha256_folder(model)
    fetch(stored, digest, tmp_path / "models")
    bucket.rm("/bucket/models", recursive=True)  # the store is down, the model pinned
    fetch(stored, digest, tmp_path / "models")
    store(model, digest, "memory://bucket/models")


def test_what_was_spoilt_meanwhile_is(model: Path, stored: str, tmp_path: Path):
    digest = sha256_folder(model)
    place = fetch(stored, digest, tmp_path / "models")
    (place / "model.safetensors").write_bytes(b"other")
    assert sha256_folder(fetch(stored, digest, tmp_path / "models")) == digest


def test_tokenizer_and_prompt_alone_are_checked_too(model: Path, stored: str, bucket: Any, tmp_path: Path):
    digest = sha256_folder(model)
    place = fetch(stored, digest, tmp_path / "prompts", without_weights=True)
    assert sorted(path.name for path in place.rglob("*.*")) == ["more.json", "text2sql.json", "tokenizer.json"]
    bucket.pipe_file(f"/bucket/models/{digest}/files/tokenizer.json", b"{ }")
    with pytest.raises(ModelError, match=r"is damaged: tokenizer\.json has another SHA-256"):
        fetch(stored, digest, tmp_path / "again", without_weights=True)


def test_another_model_than_asked_for_is_refused(stored: str, tmp_path: Path):
    with pytest.raises(ModelError, match="is not the model that was asked for"):
        fetch(stored, "0" * 64, tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("name", ["model.safetensors", "sub/more.json"])
def test_a_damaged_file_is_refused(name: str, model: Path, stored: str, bucket: Any, tmp_path: Path):
    digest = sha256_folder(model)
    bucket.pipe_file(f"/bucket/models/{digest}/files/{name}", b"evil")
    with pytest.raises(ModelError, match=f"is damaged: {name} has another SHA-256"):
        fetch(stored, digest, tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"files": 1}'])
def test_a_damaged_manifest_is_refused(text: bytes, model: Path, stored: str, bucket: Any, tmp_path: Path):
    bucket.pipe_file(f"/bucket/models/{sha256_folder(model)}/{MANIFEST}", text)
    with pytest.raises(ModelError, match="manifest.json is damaged"):
        fetch(stored, sha256_folder(model), tmp_path / "models")


def test_a_half_stored_one_is_stored_again(model: Path, stored: str, bucket: Any, tmp_path: Path):
    digest = sha256_folder(model)
    bucket.rm(f"/bucket/models/{digest}/{MANIFEST}")
    bucket.rm(f"/bucket/models/{digest}/files/tokenizer.json")
    store(model, digest, "memory://bucket/models")
    assert sha256_folder(fetch(stored, digest, tmp_path / "models")) == digest


def test_a_repository_without_a_manifest_leaves_its_pickles_behind(model: Path, tmp_path: Path):
    digest = sha256_folder(model)
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    (model / "modeling.py").write_text("evil = 1")
    place = fetch(str(model), digest, tmp_path / "models")
    assert sha256_folder(place) == digest
    assert not (place / "pytorch_model.bin").exists()
    with pytest.raises(ModelError, match="cannot be checked; fetch all of it"):
        fetch(str(model), digest, tmp_path / "prompts", without_weights=True)
    with pytest.raises(ModelError, match=f"its SHA-256 is {digest}"):  # which is how to learn it
        fetch(str(model), "f" * 64, tmp_path / "models")


def test_old_models_go_and_what_a_killed_fetch_left(model: Path, stored: str, tmp_path: Path):
    parent = tmp_path / "models"
    for age, name in enumerate(["a" * 64, "b" * 64, "c" * 64, ".incoming-dead", ".incoming-busy", "lost+found"]):
        (parent / name).mkdir(parents=True)
        seconds = 1_000_000 + age
        if name != ".incoming-busy":
            os.utime(parent / name, (seconds, seconds))
    digest = sha256_folder(model)
    fetch(stored, digest, parent, keep=2)
    assert {entry.name for entry in parent.iterdir()} == {digest, "c" * 64, ".incoming-busy", "lost+found"}


@pytest.mark.parametrize(
    ("source", "digest", "words"),
    [
        ("memory://bucket/nowhere", "0" * 64, "holds no model|cannot be read"),
        ("nosuch://bucket/model", "0" * 64, "cannot be opened"),
        ("memory://bucket/models", "none", "'none' is no SHA-256"),
    ],
)
def test_a_mistake_is_one_line(source: str, digest: str, words: str, bucket: Any, tmp_path: Path):
    bucket.makedirs("/bucket")
    with pytest.raises(ModelError, match=words):
        fetch(source, digest, tmp_path)


def test_a_store_that_takes_nothing_is_named(model: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be stored at"):
        store(model, sha256_folder(model), f"{tmp_path}/file")
    with pytest.raises(ModelError, match="is damaged"):
        store(model, "0" * 64, f"{tmp_path}/models")


def test_the_command_tells_where_it_put_it(model: Path, tmp_path: Path):
    digest = sha256_folder(model)
    done = CliRunner().invoke(app, ["fetch", str(model), "--sha256", digest, "--to", str(tmp_path / "models")])
    assert (done.exit_code, done.stdout.strip()) == (0, str(tmp_path / "models" / digest))
    failed = CliRunner().invoke(app, ["fetch", str(model), "--sha256", "0" * 64, "--to", str(tmp_path / "models")])
    assert failed.exit_code == 1
    assert failed.stderr.startswith("error: ")
