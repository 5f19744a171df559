"""docs/configuration.md is what the classes say."""

from __future__ import annotations

from tests.docs.pages import PROJECT
from text2sql.config import reference
from text2sql.config_file import valid_keys


def test_the_page_is_what_make_docs_would_write():
    assert (PROJECT / "docs" / "configuration.md").read_text("utf-8") == reference.page(), "make docs writes it anew"


def test_every_key_of_a_config_is_on_the_page():
    """By another walk over the classes: the one that finds misspelt keys."""
    page = reference.page()
    missing = [key for key in valid_keys() if f"| `{key}` |" not in page and f"\n## {key}\n" not in page]
    grouped = ("data.synthetic", "data.realistic", "deploy.kubernetes")  # told by their keys
    bounds = [key for key in missing if key.startswith("gate.") and key.rpartition(".")[0] not in ("gate",)]
    assert [key for key in missing if key not in (*grouped, *bounds)] == []


def test_what_a_value_may_be_is_told():
    found = {key.name: key.allowed for name, kind in reference.sections() for key in reference.keys(kind, f"{name}.")}
    assert found["model.quantization_bits"] == "`4`, `8`, `16`"
    assert found["deploy.port"] == "whole number from 1 to 65535"
    assert found["gate.execution_accuracy"] == "mapping of `min`, `max`, `null`"
