"""Which version goes live when none is named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.versions import _newest_passed
from text2sql.errors import GateRefusal


def version(number: int, **metadata: Any) -> SimpleNamespace:
    return SimpleNamespace(number=number, run_metadata=metadata)


PASSED = version(2, gate_passed=True)
FAILED = version(3, gate_passed=False, gate="Execution accuracy 0.400 is below the minimum of 0.500")
UNJUDGED = version(4)


def test_the_newest_that_passed(capsys: pytest.CaptureFixture[str]):
    assert _newest_passed("m", [PASSED, version(1, gate_passed=True)]) is PASSED
    assert capsys.readouterr().err == ""
    assert _newest_passed("m", [FAILED, PASSED]) is PASSED
    assert "version 3 did not pass its gate (Execution accuracy 0.400" in capsys.readouterr().err
    assert _newest_passed("m", [UNJUDGED, FAILED, PASSED]) is PASSED
    assert "version 4 did not pass its gate (it was not judged); taking version 2" in capsys.readouterr().err


def test_none_passed():
    with pytest.raises(GateRefusal, match="no version of model 'm' has passed its gate; version 3: .*below") as refused:
        _newest_passed("m", [FAILED])
    assert refused.value.exit_code == 3
