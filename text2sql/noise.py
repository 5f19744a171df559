"""What libraries say that nobody asked: kept quiet, and let through by one switch, --verbose of either command line."""

from __future__ import annotations

import os

SWITCH = "TEXT2SQL_VERBOSE"
"""1: let it through. --verbose sets it, so that every process of a run knows."""
QUIET = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Unless the user has set them; their libraries read them when they are imported."""


def set_noise(verbose: bool) -> None:
    """Before any library is imported."""
    if verbose:
        os.environ[SWITCH] = "1"
        return
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def is_loud() -> bool:
    """Whether libraries may say what they like."""
    return os.environ.get(SWITCH, "0") not in ("", "0")
