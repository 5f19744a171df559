"""Queries in words; the cases are in tests/fixtures/explain.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from text2sql.errors import ParseError, UnsafeSqlError
from text2sql.serving.explain import explain

CASES = yaml.safe_load((Path(__file__).parents[1] / "fixtures" / "explain.yaml").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["sql"][:60])
def test_words(case: dict[str, str]):
    assert explain(case["sql"], case.get("dialect", "sqlite")) == case["words"].splitlines()


def test_what_cannot_be_read_is_said():
    with pytest.raises(ParseError):
        explain("SELECT FROM WHERE")
    with pytest.raises(ParseError):
        explain("SELECT FROM (", "postgres")
    with pytest.raises(UnsafeSqlError):
        explain("DROP TABLE singer")
