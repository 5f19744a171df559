import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from huggingface_hub import try_to_load_from_cache

from tests.serving.hub import Hub, hub_of_models
from tests.terminal import on_terminal
from tests.training_fixtures import splits, tiny_settings
from text2sql.config import ModelSection
from text2sql.errors import ModelError
from text2sql.hub import check_on_hub

PROJECT = Path(__file__).parents[1]


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


FETCH = "from text2sql.hub import FETCHED, snapshot; print(snapshot('someone/sql', None, FETCHED).is_dir())"


@pytest.fixture
def hub(tiny_model: Path, tmp_path: Path) -> Iterator[Hub]:
    """With one model."""
    with hub_of_models(tmp_path / "cache") as found:
        found.push("someone/sql", tiny_model)
        yield found


def test_a_download_is_seen_on_a_terminal(hub: Hub, tmp_path: Path):
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "PYTHONPATH": str(PROJECT)}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    done, shown = on_terminal([sys.executable, "-c", FETCH], tmp_path, environment)
    assert (done.returncode, done.stdout) == (0, "True\n"), shown
    told = [line for line in re.split(r"[\r\n]+", shown) if line.strip()]
    assert all(line.startswith("fetching someone/sql ") for line in told), "and none of the client's own bars"
    [(there, of)] = re.findall(r"([\d.]+)/([\d.]+) [kM]B", told[-1])
    assert there == of, "bytes, of how many"
    assert done.stderr.endswith("\x1b[2K"), "the last line is wiped"


READ = """
import sys
from datasets import disable_progress_bars
from text2sql.config import DataSection
from text2sql.data.load import load_rows
disable_progress_bars()
print(len(load_rows(DataSection(dataset_name="someone/rows", subset_fraction=1.0))))
"""


def test_a_data_set_is_fetched_within_sight_once_and_no_more_of_it_than_is_read(tmp_path: Path):
    folder = tmp_path / "rows"
    folder.mkdir()
    row = {"question": "How many? " * 20, "context": "CREATE TABLE t (a INT)", "answer": "SELECT COUNT(*) FROM t"}
    (folder / "train.jsonl").write_text(f"{json.dumps(row)}\n" * 4_000)
    (folder / "weights.bin").write_bytes(b"no rows")
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "PYTHONPATH": str(PROJECT)}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    with hub_of_models(tmp_path / "cache") as hub:
        hub.push("datasets/someone/rows", folder)
        environment |= {"HF_ENDPOINT": hub.url}
        done, shown = on_terminal([sys.executable, "-c", READ], tmp_path, environment)
        assert (done.returncode, done.stdout) == (0, "4000\n"), shown
        told = re.findall(r"fetching someone/rows .*?([\d.]+)/([\d.]+) [kM]B", shown)
        assert told, shown
        assert told[-1][0] == told[-1][1], "bytes, of how many"
        assert not any(path.endswith("weights.bin") for path in hub.asked)
        hub.asked.clear()
        done, shown = on_terminal([sys.executable, "-c", READ], tmp_path, environment)
        assert (done.returncode, done.stdout) == (0, "4000\n"), shown
        assert "fetching" not in shown
        assert not any(path.endswith("train.jsonl") for path in hub.asked)


@pytest.mark.parametrize("loads", ["finetune.load_base", "merge.load_adapter", "model.load_for_inference"])
def test_weights_are_fetched_within_sight_before_they_are_loaded(
    hub: Hub, loads: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Transformers would fetch them too, behind a spinner."""
    from text2sql.evaluation.answering import local_model
    from text2sql.training import finetune, merge
    from text2sql.training.model import load_tokenizer

    class LoadingError(Exception):
        pass

    def load(*_: object, **__: object) -> None:
        raise LoadingError(try_to_load_from_cache("someone/sql", "model.safetensors"))

    tokenizer = load_tokenizer(ModelSection(name=str(tiny_model)))
    settings = tiny_settings(tiny_model, tmp_path, model={"name": "someone/sql"})
    monkeypatch.setattr(f"text2sql.training.{loads}", load)
    monkeypatch.setattr(finetune, "load_tokenizer", lambda _: tokenizer)
    ways = {
        "finetune.load_base": lambda: finetune.finetune(splits(), settings, output=tmp_path / "adapter"),
        "merge.load_adapter": lambda: merge._adapter_answers(tmp_path, settings, tokenizer, splits()["train"]),
        "model.load_for_inference": lambda: local_model("someone/sql", settings.evaluation).open().__enter__(),
    }
    with pytest.raises(LoadingError, match="model.safetensors"):
        ways[loads]()
