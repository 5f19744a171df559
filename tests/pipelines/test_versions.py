"""Which version goes live when none is named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.versions import _newest_passed, find_version
from text2sql.errors import GateRefusal, ModelError


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


@pytest.mark.usefixtures("zenml_client")
def test_old_versions_are_found_behind_pages_of_newer_ones():
    from zenml.client import Client
    from zenml.constants import PAGE_SIZE_DEFAULT

    client = Client()
    model = client.create_model("of-many-versions")
    for _ in range(PAGE_SIZE_DEFAULT + 3):
        client.create_model_version(model.id)
    client.update_model_version(model.id, "1", stage="production")
    assert find_version(model.name, "2", ()) == 2
    assert find_version(model.name, "production", ()) == 1
    assert find_version(model.name, None, ()) == PAGE_SIZE_DEFAULT + 3
    with pytest.raises(ModelError, match="has no version '99'"):
        find_version(model.name, "99", ())
    with pytest.raises(ModelError, match=f"to take; version {PAGE_SIZE_DEFAULT + 3} has no merged_model"):
        find_version(model.name, None, ("merged_model",))
    with pytest.raises(ModelError, match="has no version to take; train one"):
        find_version("of-no-version", None, ())
