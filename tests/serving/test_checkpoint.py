"""Which files are served, and which are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from text2sql.errors import ModelError
from text2sql.serving.checkpoint import find_checkpoint

if TYPE_CHECKING:
    from text2sql.training.finetune import TrainedAdapter


def copied(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    return folder


def test_a_merged_folder_and_an_adapter_with_its_base(tiny_model: Path, trained: TrainedAdapter, tmp_path: Path):
    merged = find_checkpoint(tiny_model)
    assert (merged.name, merged.folder, merged.adapter) == (tiny_model.name, tiny_model, None)
    found = find_checkpoint(trained.path)
    assert (found.name, found.folder, found.adapter) == (trained.path.name, tiny_model, trained.path)
    assert found.rank == 4
    elsewhere = copied(tiny_model, tmp_path / "moved")
    assert find_checkpoint(trained.path, elsewhere).folder == elsewhere


@pytest.mark.parametrize("part", ["merged", "adapter", "base"])
@pytest.mark.parametrize("fault", ["pickled weights", "Python code to run", "no safetensors weights"])
def test_row_25_evil_checkpoints_are_refused(
    tiny_model: Path, trained: TrainedAdapter, tmp_path: Path, part: str, fault: str
):
    base, adapter = copied(tiny_model, tmp_path / "base"), copied(trained.path, tmp_path / "adapter")
    bad = adapter if part == "adapter" else base
    if fault == "Python code to run":
        config = bad / "tokenizer_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": {"AutoTokenizer": "evil.T"}}))
    else:
        for weights in bad.glob("*.safetensors"):
            weights.unlink()
    if fault == "pickled weights":
        (bad / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(ModelError, match=fault):
        find_checkpoint(base if part == "merged" else adapter, None if part == "merged" else base)
    if fault == "Python code to run":
        assert find_checkpoint(base if part == "merged" else adapter, base, trust_remote_code=True).trust_remote_code


def test_what_is_nowhere_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="there is no such folder") as error:
        find_checkpoint(tmp_path / "absent")
    assert "\n" not in str(error.value)
