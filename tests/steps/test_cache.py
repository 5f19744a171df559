"""A finished step is used again only while nothing it depends on has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("zenml_client")


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for room in ("text2sql/data", "steps", "materializers", "docs"):
        (tmp_path / room).mkdir(parents=True)
        (tmp_path / room / "a.py").write_text("x = 1\n")
    return tmp_path


@pytest.mark.parametrize("path", ["text2sql/data/a.py", "steps/a.py", "materializers/a.py", "text2sql/data/new.j2"])
def test_an_edit_of_the_library_counts(house: Path, path: str):
    from steps.cache import source_checksum

    before = source_checksum(house)
    (house / path).write_text("x = 2\n")
    assert source_checksum(house) != before


def test_other_files_do_not_count(house: Path):
    from steps.cache import source_checksum

    before = source_checksum(house)
    (house / "docs" / "a.py").write_text("x = 2\n")
    (house / "steps" / "__pycache__").mkdir()
    (house / "steps" / "__pycache__" / "a.pyc").write_text("x")
    assert source_checksum(house) == before
    (house / "steps" / "a.py").rename(house / "steps" / "b.py")
    assert source_checksum(house) != before


def test_every_step_but_those_about_stages_has_the_policy():
    from pipelines import PIPELINES, train
    from steps.cache import BY_CODE

    for name in PIPELINES["train"].steps:
        step = getattr(train, "format_rows" if name == "format" else name)
        assert step.name == name
        if name in ("promote", "find_champion"):
            assert step.configuration.enable_cache is False
        else:
            assert step.configuration.cache_policy == BY_CODE
