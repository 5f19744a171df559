"""What goes wrong in a step reaches the user as the error that a step raised."""

from __future__ import annotations

import errno

import pytest

from pipelines.launch import understandable
from text2sql.errors import DataError, OutputError


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
    assert "free some space" in str(found)


def test_a_bug_stays_a_bug():
    bug = chained(KeyError("x"))
    assert understandable(bug) is bug
