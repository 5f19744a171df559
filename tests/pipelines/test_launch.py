"""What goes wrong in a step reaches the user as the error that a step raised."""

from __future__ import annotations

import errno
import sqlite3

import pytest

from pipelines.launch import understandable
from text2sql.errors import DataError, OutputError, TrainingError


def chained(cause: Exception) -> Exception:
    try:
        try:
            raise cause
        except Exception as error:
            raise RuntimeError("step failed") from error
    except RuntimeError as error:
        return error


def test_our_own_error_is_found_in_a_chain():
    ours = DataError("no rows")
    assert understandable(chained(ours)) is ours


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_explained(code: int):
    found = understandable(chained(OSError(code, "No space left on device", "/store/x")))
    assert isinstance(found, OutputError)
    assert "/store/x" in str(found)
    remedy = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some of your quota",
        errno.EROFS: "can be written to",
    }
    assert remedy[code] in str(found)


def test_a_full_disk_under_zenmls_store_is_explained():
    found = understandable(chained(sqlite3.OperationalError("database or disk is full")))
    assert isinstance(found, OutputError)
    assert "ZenML's local store: the disk is full" in str(found)


def test_a_gpu_out_of_memory_is_explained():
    import torch

    found = understandable(chained(torch.OutOfMemoryError("CUDA out of memory")))
    assert isinstance(found, TrainingError)
    assert "per_device_train_batch_size" in str(found)


def test_ctrl_c_that_zenml_took_is_no_bug():
    from zenml.exceptions import RunInterruptedException

    assert isinstance(understandable(chained(RunInterruptedException("interrupted"))), KeyboardInterrupt)


def test_a_bug_stays_a_bug():
    bug = chained(KeyError("x"))
    assert understandable(bug) is bug
