"""schemathesis holds the server against its own OpenAPI document."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from tests.serving.servers import ScriptedEngine, running
from text2sql.serving.auth import make_key

KEY, LINE = make_key("schemathesis")
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "8"))


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    folder = tmp_path_factory.mktemp("contract")
    (folder / "keys.txt").write_text(LINE.line() + "\n")
    engine = ScriptedEngine(default="SELECT COUNT(*) FROM singer")
    with running(engine, api_keys=folder / "keys.txt", max_batch=8) as server:
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
def test_every_answer_is_documented(document: schemathesis.BaseSchema, mode: GenerationMode):
    """No 5xx, no undocumented status, type, header or body."""
    tried: Counter[str] = Counter()
    for found in document.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            tried[case.operation.path] += 1
            case.call_and_validate(headers={"Authorization": f"Bearer {KEY}"}, timeout=30)

        try:
            check()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE
    assert tried["/generate"] == tried["/v1/chat/completions"] == EXAMPLES
