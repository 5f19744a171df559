"""A deployment that died after its server went live, and before ZenML heard of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.deployment.local import Local
from text2sql.config import DeploySection, Settings
from text2sql.data.files import sha256_folder
from text2sql.deployment.backend import Spec
from text2sql.deployment.release import Release
from text2sql.deployment.state import StateFolder, locked, state_folder, write_json

pytestmark = [
    pytest.mark.usefixtures("zenml_client"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of ZenML and what it stands on
]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zenml_client: Any) -> Settings:
    """A model of three versions; the first is marked, the second serves."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    settings = Settings(name=f"unmarked-{tmp_path.name}", deploy=DeploySection(port=9))
    zenml_client.create_model(settings.name)
    for _ in range(3):
        zenml_client.create_model_version(settings.name)
    zenml_client.get_model_version(settings.name, 1).set_stage("production")
    serve(settings, "2")
    return settings


def folder(settings: Settings) -> StateFolder:
    found = state_folder(settings.name)
    found.make()
    return found


def serve(settings: Settings, version: str) -> None:
    """What a gateway leaves when it ends."""
    spec = Spec(Release(settings.name, version, "d", "", ""), [], {}, "")
    kept = {"pid": 0, "started": "", "host": "127.0.0.1", "port": 9, "current": spec.to_dict(), "previous": None}
    write_json(folder(settings).state, kept)


def production(client: Any, settings: Settings) -> int:
    return client.get_model_version(settings.name, "production").number


def test_the_next_command_marks_what_serves(settings: Settings, zenml_client: Any, capsys: pytest.CaptureFixture[str]):
    from steps.production import mark_what_serves

    assert mark_what_serves(settings) == "2"
    assert production(zenml_client, settings) == 2
    assert zenml_client.get_model_version(settings.name, 1).stage == "archived"
    assert "version 2 serves, and is marked as production now" in capsys.readouterr().err
    assert mark_what_serves(settings) is None, "once"


def test_a_stage_that_somebody_gave_by_hand_stays(settings: Settings, zenml_client: Any):
    from steps.production import mark, mark_what_serves

    mark(settings, "2")
    zenml_client.get_model_version(settings.name, 3).set_stage("production", force=True)
    assert mark_what_serves(settings) is None
    assert production(zenml_client, settings) == 3


def test_while_somebody_deploys_it_is_for_them_to_mark(settings: Settings, zenml_client: Any):
    from steps.production import mark_what_serves

    with locked(folder(settings).lock):
        assert mark_what_serves(settings) is None
    assert production(zenml_client, settings) == 1


def test_what_zenml_does_not_know_is_one_line(settings: Settings, capsys: pytest.CaptureFixture[str]):
    from steps.production import mark_what_serves

    serve(settings, "7")
    assert mark_what_serves(settings) is None
    told = " ".join(capsys.readouterr().err.split())
    assert "WARNING: what serves could not be marked in ZenML (" in told


def test_what_nobody_has_verified_is_not_marked(tmp_path: Path, settings: Settings, zenml_client: Any):
    from steps.production import _unmarked

    local = Local(tmp_path / "real")
    local.folder.mkdir()
    try:
        local.deploy("1")
        with local.target.alone():
            model = local.model("2")
            release = Release("model", "2", sha256_folder(model), "", "")
            local.target.stage(release, model, local.told.append)
            local.target.promote()
            assert local.target.status().current.release.version == "2"
            assert _unmarked(local.target, settings) is None
            local.target.settle()
            assert _unmarked(local.target, settings) == "2"
    finally:
        local.target.stop(local.told.append)
