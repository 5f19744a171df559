"""What makes a retraining worth its while, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training_fixtures import tiny_settings
from text2sql import fingerprint as module
from text2sql.config import Settings
from text2sql.errors import DataError
from text2sql.fingerprint import PARTS, changed, fingerprint, pin_inputs

ROW = '{"question": "q", "context": "CREATE TABLE t (a INTEGER)", "answer": "SELECT a FROM t"}\n'


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> Settings:
    (tmp_path / "rows.jsonl").write_text(ROW)
    return tiny_settings(tiny_model, tmp_path, data={"path": tmp_path / "rows.jsonl"})


def parts(settings: Settings, code: str = "c") -> dict[str, str]:
    return fingerprint(pin_inputs(settings), code)


def test_the_same_again_is_nothing_new(settings: Settings):
    assert tuple(parts(settings)) == PARTS
    assert changed(parts(settings), parts(settings)) == []
    assert changed({}, parts(settings)) == list(PARTS), "the first time all of it is new"


def test_each_part_is_told_by_its_name(settings: Settings, tmp_path: Path):
    before = parts(settings)
    training = settings.training.model_copy(update={"seed": 9})
    assert changed(before, parts(settings.model_copy(update={"training": training}))) == ["config"]
    assert changed(before, parts(settings, "another")) == ["code"]
    (tmp_path / "rows.jsonl").write_text(ROW * 2)
    assert changed(before, parts(settings)) == ["data"]
    (tmp_path / "bench.jsonl").write_text(ROW)
    data = settings.data.model_copy(update={"benchmark": tmp_path / "bench.jsonl"})
    assert changed(before, parts(settings.model_copy(update={"data": data}))) == ["data", "benchmark"]


def test_where_results_go_and_where_it_is_deployed_is_no_reason_to_train(settings: Settings):
    deploy = settings.deploy.model_copy(update={"port": 9000})
    other = settings.model_copy(update={"output_dir": Path("elsewhere"), "deploy": deploy})
    assert changed(parts(settings), parts(other)) == []


def test_the_name_of_the_same_file_is_no_reason_to_train(settings: Settings, tmp_path: Path):
    (tmp_path / "copy.jsonl").write_text(ROW)
    data = settings.data.model_copy(update={"path": tmp_path / "copy.jsonl"})
    assert changed(parts(settings), parts(settings.model_copy(update={"data": data}))) == []


def test_a_new_commit_on_the_hub_is_new_and_a_hub_that_cannot_be_asked_is_not(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    data = settings.data.model_copy(update={"path": None})
    on_hub = settings.model_copy(update={"data": data})

    def commits(answer: str | None) -> dict[str, str]:
        monkeypatch.setattr(module, "newest_commit", lambda *_arguments: answer)
        return parts(on_hub)

    before = commits("a" * 40)
    assert changed(before, commits("b" * 40)) == ["data"]
    assert changed(before, commits(None)) == []
    assert pin_inputs(on_hub).data.dataset_revision is None
    monkeypatch.setattr(module, "newest_commit", lambda *_arguments: "c" * 40)
    assert pin_inputs(on_hub).data.dataset_revision == "c" * 40, "what was looked at is what is trained on"


def test_the_hub_is_asked_and_may_be_out_of_reach(monkeypatch: pytest.MonkeyPatch):
    from text2sql.hub import newest_commit

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert newest_commit("b-mc2/sql-create-context", None, "dataset") is None
    assert newest_commit("not a name/at all/x", None, "model") is None


def test_an_input_that_is_gone_is_told(settings: Settings, tmp_path: Path):
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(DataError, match="no such file"):
        parts(settings)


def test_paths_of_other_machines_stay_as_they_are(settings: Settings, tmp_path: Path):
    from text2sql.inputs import resolve_inputs

    there = settings.data.model_copy(update={"path": Path("/mnt/text2sql/rows.jsonl")})
    resolved = resolve_inputs(settings.model_copy(update={"data": there}), elsewhere=True)
    assert (resolved.data.path, resolved.data.sha256) == (Path("/mnt/text2sql/rows.jsonl"), None)
    assert resolved.model.sha256 is not None, "the model is here too, and must be the same there"
    assert resolved.model.name == settings.model.name
    here = resolve_inputs(settings, elsewhere=True)
    assert here.data.path == settings.data.path
    assert here.data.sha256 is not None
