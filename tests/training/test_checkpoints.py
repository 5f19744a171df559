from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from datasets import Dataset

from tests.training_fixtures import made_up_rows, tiny_settings
from text2sql.config import Settings
from text2sql.errors import OutputError, TrainingError
from text2sql.training.checkpoints import CheckpointStore, StopRequest, fingerprint, is_complete, writing


def checkpoint(store: CheckpointStore, step: int, seal: bool = True) -> Path:
    path = store.folder / f"checkpoint-{step}"
    (path / "inner").mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(bytes(100))
    (path / "inner" / "rng_state.pth").write_bytes(b"state")
    if seal:
        store.seal(step)
    return path


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "run", keep=2)


def test_the_newest_complete_one_by_number_not_by_name(store: CheckpointStore) -> None:
    assert store.last_complete() is None
    for step in (8, 9, 10):
        checkpoint(store, step)
    assert store.last_complete() == store.folder / "checkpoint-10"


def test_without_its_marker_it_is_no_checkpoint_and_goes(store: CheckpointStore) -> None:
    good, unsealed = checkpoint(store, 5), checkpoint(store, 10, seal=False)
    assert store.last_complete() == good
    assert not unsealed.exists()


@pytest.mark.parametrize("damage", ["shorter", "missing"])
def test_a_damaged_one_is_not_complete(store: CheckpointStore, damage: str) -> None:
    good, bad = checkpoint(store, 5), checkpoint(store, 10)
    file = bad / "inner" / "rng_state.pth"
    file.write_bytes(b"st") if damage == "shorter" else file.unlink()
    assert not is_complete(bad)
    assert store.last_complete() == good


def test_old_ones_go_only_after_the_new_one_is_sealed(store: CheckpointStore) -> None:
    old = [checkpoint(store, step) for step in (1, 2)]
    checkpoint(store, 3, seal=False)
    assert all(path.exists() for path in old)
    store.seal(3)
    assert sorted(path.name for path in store.folder.iterdir()) == ["checkpoint-2", "checkpoint-3"]


def test_clear_leaves_what_is_not_a_checkpoint(store: CheckpointStore) -> None:
    checkpoint(store, 1)
    (store.folder / "adapter").mkdir()
    store.clear()
    assert [path.name for path in store.folder.iterdir()] == ["adapter"]
    (store.folder / "adapter").rmdir()
    store.clear()
    assert not store.folder.exists()


def test_fingerprint_follows_what_shapes_the_training(settings: Settings, tiny_model: Path, tmp_path: Path) -> None:
    rows = made_up_rows(4)
    run = fingerprint(settings, rows)
    elsewhere = {"checkpoint_dir": tmp_path / "x", "save_total_limit": 5, "gradient_checkpointing": True}
    assert fingerprint(tiny_settings(tiny_model, tmp_path, training=elsewhere), rows) == run
    assert fingerprint(settings, Dataset.from_list(rows)) == run
    assert fingerprint(settings, rows[::-1]) != run
    assert fingerprint(tiny_settings(tiny_model, tmp_path, lora={"r": 8}), rows) != run
    assert fingerprint(tiny_settings(tiny_model, tmp_path, training={"seed": 1}), rows) != run
    assert fingerprint(tiny_settings(tiny_model, tmp_path, model={"bnb_4bit_quant_type": "fp4"}), rows) != run


def test_a_failed_write_is_one_line_and_other_errors_pass(tmp_path: Path) -> None:
    full = r"cannot write .*run: the disk is full \([\d,]+ MiB free\); free some space"
    with pytest.raises(OutputError, match=full), writing(tmp_path / "run"):
        raise OSError(28, "No space left on device")
    with pytest.raises(RuntimeError, match="^CUDA out of memory$"), writing(tmp_path):
        raise RuntimeError("CUDA out of memory")


def test_sigterm_is_noted_and_the_old_handler_returns() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
    assert signal.getsignal(signal.SIGTERM) is before


def test_two_runs_do_not_train_the_same_at_once(tmp_path: Path) -> None:
    first, second = (CheckpointStore(tmp_path / "run", keep=2) for _ in range(2))
    with first.locked(), pytest.raises(TrainingError, match="another run is training just this"), second.locked():
        pass
    with second.locked():
        pass
