"""What a run starts from is found, and named by its content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from text2sql.config import Settings
from text2sql.data.files import sha256_folder
from text2sql.errors import DataError, ModelError
from text2sql.inputs import PROJECT, check_reachable, resolve_inputs


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def settings(**sections: dict[str, object]) -> Settings:
    return Settings.model_validate(sections)


def test_fills_checksums_in(tmp_path: Path, model: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(b'{"question": 1}\n')
    found = resolve_inputs(settings(data={"path": "rows.jsonl"}, model={"name": "models/tiny"}))
    assert found.data.sha256 == hashlib.sha256(rows.read_bytes()).hexdigest()
    assert found.data.path == Path("rows.jsonl")
    assert (found.model.name, found.model.sha256) == ("models/tiny", sha256_folder(model))


def test_a_benchmark_is_found_and_fingerprinted_too(tmp_path: Path, model: Path):
    (tmp_path / "dev.csv").write_text("question\nWho?\n")
    found = resolve_inputs(settings(data={"benchmark": "dev.csv"}))
    assert found.data.benchmark_sha256 == hashlib.sha256(b"question\nWho?\n").hexdigest()
    assert resolve_inputs(found) == found
    with pytest.raises(DataError, match=r"data.benchmark = 'no.csv': no such file; correct it, or leave it out"):
        resolve_inputs(settings(data={"benchmark": "no.csv"}))
    with pytest.raises(DataError, match=r"has SHA-256 .* and data.benchmark_sha256 asks for 0{64}"):
        resolve_inputs(settings(data={"benchmark": "dev.csv", "benchmark_sha256": "0" * 64}))


def test_databases_are_fingerprinted_too(tmp_path: Path, model: Path):
    folder = tmp_path / "databases"
    folder.mkdir()
    (folder / "a.sqlite").write_bytes(b"rows")
    found = resolve_inputs(settings(data={"databases": "databases"}))
    assert found.data.databases_sha256 == sha256_folder(folder)
    (folder / "a.sqlite").write_bytes(b"other rows")
    with pytest.raises(DataError, match=r"data.databases = 'databases' has SHA-256 .*; restore it"):
        resolve_inputs(found)
    with pytest.raises(DataError, match=r"data.databases = 'no': no such folder; correct it, or leave it out"):
        resolve_inputs(settings(data={"databases": "no"}))


def test_a_changed_file_has_another_checksum_under_the_same_name(model: Path):
    before = resolve_inputs(settings(model={"name": "models/tiny"}))
    (model / "config.json").write_text('{"a": 1}')
    after = resolve_inputs(settings(model={"name": "models/tiny"}))
    assert before.keep("model") != after.keep("model")


@pytest.mark.parametrize("name", ["mistralai/Mistral-7B-v0.1", "gpt2"])
def test_a_hub_name_is_left_alone(model: Path, name: str):
    assert resolve_inputs(settings(model={"name": name})).model.sha256 is None


@pytest.mark.parametrize("name", ["models/tinny", "./models/tinny", "/no/such/folder", "a/b/c"])
def test_a_missing_folder_is_not_taken_for_a_hub_name(model: Path, name: str):
    with pytest.raises(ModelError, match=rf"model.name = '{name}': no such folder"):
        resolve_inputs(settings(model={"name": name}))


def test_shipped_files_are_found_from_any_folder(model: Path):
    found = resolve_inputs(settings(data={"path": "configs/tiny.yaml"}))
    assert found.data.path == PROJECT / "configs" / "tiny.yaml"


def test_a_folder_without_a_model(model: Path):
    (model / "config.json").unlink()
    with pytest.raises(ModelError, match="holds no config.json"):
        resolve_inputs(settings(model={"name": "models/tiny"}))


def test_missing_data(model: Path):
    with pytest.raises(DataError, match=r"data.path = 'gone.csv': no such file; correct it"):
        resolve_inputs(settings(data={"path": "gone.csv"}))
    with pytest.raises(DataError, match="is a folder"):
        resolve_inputs(settings(data={"path": "models"}))


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path, model: Path):
    (tmp_path / "rows.csv").write_text("a")
    with pytest.raises(DataError, match="data.sha256 asks for 0000"):
        resolve_inputs(settings(data={"path": "rows.csv", "sha256": "0" * 64}))
    with pytest.raises(ModelError, match="model.sha256 asks for 0000"):
        resolve_inputs(settings(model={"name": "models/tiny", "sha256": "0" * 64}))


def test_a_settings_part_is_valid_by_itself():
    """Steps get parts, and ZenML reads them back through validation."""
    for values in (
        {"training": {"max_length": 64}, "evaluation": {"max_new_tokens": 32}},
        {"training": {"max_length": 2048}, "evaluation": {"max_new_tokens": 1024}},
    ):
        whole = settings(**values)
        for part in ("training", "evaluation"):
            kept = whole.keep(part)
            assert Settings(**kept.model_dump()) == kept
            assert getattr(kept, part) == getattr(whole, part)


def test_a_folder_needs_no_hub_and_a_hub_model_is_asked_for(model: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr("text2sql.inputs.check_on_hub", lambda *wanted: asked.append(wanted))
    check_reachable(settings(model={"name": "models/tiny"}).model)
    check_reachable(settings(model={"name": "owner/name", "revision": "abc"}).model)
    assert asked == [("owner/name", "abc")]
