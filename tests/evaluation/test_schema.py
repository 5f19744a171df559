from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation.evaluations import several
from tests.evaluation.test_types import EVALUATION
from text2sql.evaluation.faults import FAULTS
from text2sql.evaluation.figures import FIGURES
from text2sql.evaluation.schema import evaluation_schema, schema_text

FILE = Path(__file__).parents[2] / "docs" / "evaluation.schema.json"


def valid(judged: object) -> bool:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(evaluation_schema()).is_valid(judged)


def test_the_file_is_current():
    remedy = "python -m text2sql.evaluation.schema > docs/evaluation.schema.json"
    assert FILE.read_text("utf-8") == schema_text(), remedy


@pytest.mark.parametrize("judged", [EVALUATION, several(), several(names=())], ids=["odd values", "several", "none"])
def test_an_evaluation_as_written_fits(judged):
    assert valid(json.loads(judged.to_json()))


@pytest.mark.parametrize("key", ["systems", "rows", "model", "created"])
def test_what_lacks_a_part_does_not_fit(key: str):
    judged = json.loads(several().to_json())
    del judged[key]
    assert not valid(judged)


def test_a_fault_that_there_is_not_does_not_fit():
    judged = several(names=("model",))
    rows = [replace(row, fault="made_up") for row in judged.systems[0].rows]
    assert not valid(json.loads(replace(judged, systems=[replace(judged.systems[0], rows=rows)]).to_json()))


def test_figures_faults_and_every_type_are_described():
    schema = evaluation_schema()
    figures = schema["$defs"]["SystemScores"]["properties"]["figures"]["properties"]
    assert list(figures) == [figure.key for figure in FIGURES]
    assert all(figure["description"] for figure in figures.values())
    faults = schema["$defs"]["RowScore"]["properties"]["fault"]["anyOf"]
    assert {part["const"]: part["description"] for part in faults if "const" in part} == FAULTS
    assert all(part["description"] for part in (schema, *schema["$defs"].values()))
