"""Whether the hub, or its cache on this machine, gives a model; asked before a run exists."""

from __future__ import annotations

import os

from text2sql.errors import ModelError

OFFLINE = ("1", "true", "yes", "on")


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
