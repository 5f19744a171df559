"""Models and data sets of the hub: whether it, or its cache on this machine, has them; fetched within sight."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from text2sql.errors import ModelError
from text2sql.progress import downloading

OFFLINE = ("1", "true", "yes", "on")
ASK_SECONDS = 15
COMMIT = re.compile("[0-9a-f]{40}")
"""A revision that never changes."""
FETCHED = ("*.json", "*.txt", "*.model", "*.jinja", "model*.safetensors", "adapter_model.safetensors")
"""Of a hub model: never a pickle, and weights once where the repository has them in several formats."""


def check_on_hub(name: str, revision: str | None = None) -> None:
    """Ask for the model's config, from the cache where HF_HUB_OFFLINE is set.

    Raises:
        ModelError: it is not there, not allowed, or cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        hf_hub_download(name, "config.json", revision=revision)
    except (OSError, ValueError, HFValidationError) as error:  # its HTTP and cache errors are OSErrors and ValueErrors
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"cannot load model {name!r}: {remedy(name)} ({reason})") from error


def remedy(name: str) -> str:
    """What to do about a hub model that cannot be had."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in OFFLINE:
        return (
            "HF_HUB_OFFLINE is set and the model is not in the local cache; unset HF_HUB_OFFLINE, download it first "
            f"(hf download {name}), or set model.name to a local folder"
        )
    return (
        "the hub does not give it; check the name and model.revision, the network, and for a gated model HF_TOKEN, "
        f"or download it elsewhere (hf download {name}) and set model.name to that folder"
    )


def snapshot(
    name: str,
    revision: str | None,
    patterns: Sequence[str] | None = None,
    local: bool = False,
    kind: str = "model",
) -> Path:
    """The folder of the cache that has a repository's files; while they are fetched, a terminal sees how far that is.

    Args:
        patterns: which files; None for all.
        local: ask the cache alone.
        kind: model or dataset.
    """
    from huggingface_hub import snapshot_download

    wanted = None if patterns is None else [*patterns]
    with downloading(f"fetching {name}") as tell:
        found = snapshot_download(
            name,
            repo_type=kind,
            revision=revision,
            allow_patterns=wanted,
            local_files_only=local,
            tqdm_class=_one_bar(tell),
        )
    return Path(found)


def _one_bar(tell: Callable[[int, int], None]) -> Any:
    """What the hub's client takes its bars from: one for all of them, fed with bytes.

    Its own are three, of bytes that came in, bytes written and files, and stay on the screen when they are done.
    """
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    counts: dict[int, int] = {}

    class Silent(tqdm):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **{**named, "disable": False, "file": io.StringIO()})  # type: ignore[no-untyped-call]

        def display(self, *_given: Any, **_named: Any) -> None:
            if self.unit == "B" and self.total:
                counts[id(self)] = int(self.n)
                tell(max(counts.values()), int(self.total))

    return Silent


def newest_commit(name: str, revision: str | None, kind: str) -> str | None:
    """The commit that a branch, a tag or (None) the main branch of a hub repository stands for; None if nobody can say.

    Args:
        kind: model or dataset.
    """
    from huggingface_hub import HfApi

    try:
        return HfApi().repo_info(name, revision=revision, repo_type=kind, timeout=ASK_SECONDS).sha
    except (OSError, ValueError):  # its HTTP, offline and name errors are OSErrors and ValueErrors
        return None
