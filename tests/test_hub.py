from pathlib import Path

import huggingface_hub.constants
import pytest

from text2sql.errors import ModelError
from text2sql.hub import check_on_hub


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty, with no way to fill it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_model_out_of_reach_is_one_line_with_a_remedy(offline: Path):
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set.*hf download nobody/no-such-model") as caught:
        check_on_hub("nobody/no-such-model")
    assert "\n" not in str(caught.value)


def test_a_name_that_cannot_be_one(offline: Path):
    with pytest.raises(ModelError, match="cannot load model 'no such name'"):
        check_on_hub("no such name")


def test_a_cached_model_is_enough(offline: Path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = offline / "models--owner--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "snapshots" / commit / "config.json").write_text("{}")
    check_on_hub("owner/name")
    with pytest.raises(ModelError, match="cannot load model"):
        check_on_hub("owner/name", "another-revision")
