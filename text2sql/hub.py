"""Whether the hub, or its cache on this machine, gives a model; asked before a run exists."""

from __future__ import annotations

import os

from text2sql.errors import ModelError

OFFLINE = ("1", "true", "yes", "on")
ASK_SECONDS = 15


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
