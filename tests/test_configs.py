"""Every shipped config goes through the real entry point."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from text2sql.config import Settings
from text2sql.config_file import load_settings, valid_keys
from text2sql.training.planner.plan import plan_run

PROJECT = Path(__file__).parents[1]
SHIPPED = sorted((PROJECT / "configs").rglob("*.yaml"))


def test_all_are_found():
    names = {path.name for path in SHIPPED}
    assert {"tiny.yaml", "mistral_7b.yaml", "mistral_7b_t4.yaml", "mistral_7b_80gb.yaml"} <= names
    assert not [path for path in (PROJECT / "configs").rglob("*") if path.is_file() and path.suffix != ".yaml"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_it_is_valid(path: Path):
    assert load_settings(path).name.startswith("text2sql-")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_its_opening_comment_says_how_to_launch_it(path: Path):
    comment = re.match(r"(?:#.*\n)+", path.read_text(encoding="utf-8"))
    assert comment is not None
    [launch] = re.findall(r"^#   (python run\.py --pipeline train.*)$", comment[0], re.MULTILINE)
    named = re.findall(r"--config (\S+)", launch) or ["configs/tiny.yaml"]  # what run.py takes when it is left out
    assert named == [path.relative_to(PROJECT).as_posix()]


def test_mistral_7b_is_the_defaults_and_leaves_no_key_out():
    path = PROJECT / "configs" / "mistral_7b.yaml"
    assert load_settings(path) == Settings()
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    optional = re.compile(r"gate\.\w+\.(min|max)$")  # a threshold that is null has no bounds to show
    missing = [key for key in valid_keys() if not _holds(raw, key) and not optional.match(key)]
    assert not missing


def test_each_file_is_set_up_for_the_card_it_is_named_for():
    """Auto recomputes activations on small cards, and keeps them on large ones."""
    small, middle, large = (
        load_settings(PROJECT / "configs" / f"{name}.yaml")
        for name in ("mistral_7b_t4", "mistral_7b", "mistral_7b_80gb")
    )
    for settings, cards, again in (
        (small, ["T4"], True),
        (middle, ["A10"], True),
        (large, ["A100-80GB", "H100"], False),
    ):
        assert settings.training.gradient_checkpointing == "auto"
        for card in cards:
            [found] = plan_run(settings, card, rows=1000, tokens=121).devices
            assert (found.fits, found.checkpointing) == (True, again)
    assert (small.training.precision, large.training.precision) == ("fp16", "bf16")
    assert small.training.per_device_train_batch_size < large.training.per_device_train_batch_size
    assert {small.model.name, large.model.name} == {Settings().model.name}


def _holds(raw: object, dotted: str) -> bool:
    for part in dotted.split("."):
        if not isinstance(raw, dict) or part not in raw:
            return False
        raw = raw[part]
    return True
