from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from text2sql.evaluation.hardness import components, hardness
from text2sql.sql.parse import parse

CASES = yaml.safe_load((Path(__file__).parents[1] / "fixtures/hardness.yaml").read_text("utf-8"))
LEVELS = [(query, level) for level, queries in CASES["levels"].items() for query in queries]


@pytest.mark.parametrize(("query", "level"), LEVELS)
def test_level(query: str, level: str):
    assert hardness(parse(query)) == level


@pytest.mark.parametrize("case", CASES["counts"], ids=lambda case: case.get("shows", case["query"]))
def test_counts(case: dict[str, Any]):
    counted = components(parse(case["query"]))
    assert (counted.clauses, counted.nested, counted.others) == (case["clauses"], case["nested"], case["others"])
