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
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.serving.api import SINGERS, ScriptedEngine, running
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


def make_answerable(case: schemathesis.Case) -> None:
    """Give a request a schema that is one, and the model its name; the rest stays as it was drawn."""
    body = case.body
    if case.operation.path == "/generate":
        body["schema_text"], body["execute"] = SINGERS, False
    elif case.operation.path == "/generate/batch":
        for question in body["requests"]:
            question["schema_text"], question["execute"] = SINGERS, False
        del body["requests"][8:]
    elif case.operation.path == "/v1/chat/completions":
        body["model"] = "scripted"
        body["messages"] = [{"role": "system", "content": SINGERS}, {"role": "user", "content": "How many?"}]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
def test_every_answer_is_documented(document: schemathesis.BaseSchema, mode: GenerationMode):
    """No 5xx, no undocumented status, type, header or body."""
    answered: Counter[str] = Counter()
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
            if mode is GenerationMode.POSITIVE:
                make_answerable(case)
            headers = {"Authorization": f"Bearer {KEY}"}
            response = case.call(headers=headers, timeout=30)
            # What makes a schema a schema, JSON schema cannot say; and it has not heard of 413.
            excluded = [positive_data_acceptance, *([negative_data_rejection] if response.status_code == 413 else [])]
            case.validate_response(response, excluded_checks=excluded)
            tried[case.operation.path] += 1
            answered[case.operation.path] += response.status_code == 200

        try:
            check()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE
    for path in ("/generate", "/generate/batch", "/v1/chat/completions"):
        assert tried[path] >= EXAMPLES
        assert answered[path] or mode is GenerationMode.NEGATIVE, answered
