"""Which files are served, and which are not."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.serving.decoding import PROMPTS, served
from text2sql.errors import ModelError
from text2sql.serving.checkpoint import find_checkpoint
from text2sql.serving.engine import Options

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


class _Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "adapter_model.bin"])
def test_row_25_pickles_are_refused_and_never_opened(tiny_model: Path, tmp_path: Path, name: str):
    folder, trace = copied(tiny_model, tmp_path / "model"), tmp_path / "opened"
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(_Bomb(trace)))
    with pytest.raises(ModelError, match=f"pickled weights \\({name}\\).*convert them to safetensors"):
        served(folder, lambda engine: engine.generate([PROMPTS[0]], Options(max_new_tokens=1)))
    shutil.copy(tiny_model / "model.safetensors", folder)
    served(folder, lambda engine: engine.generate([PROMPTS[0]], Options(max_new_tokens=1)))
    assert not trace.exists()


def test_row_25_code_of_the_model_is_refused(tiny_model: Path, tmp_path: Path):
    folder = copied(tiny_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'opened')!r}, 'w')\n", "utf-8")
    with pytest.raises(ModelError, match="Python code to run"):
        served(folder, lambda engine: engine.generate([PROMPTS[0]], Options(max_new_tokens=1)))
    assert not (tmp_path / "opened").exists()
