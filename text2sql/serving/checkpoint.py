"""The files that are served: found here or fetched from the hub, and looked at before anything opens them."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from text2sql.errors import ModelError
from text2sql.hub import COMMIT, FETCHED, snapshot

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CONFIGS = ("config.json", "tokenizer_config.json")
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A model as folders of this machine: weights in safetensors, and no code of its own unless that is allowed."""

    name: str
    """What it is called."""
    folder: Path
    """The model, or the base of the adapter."""
    adapter: Path | None = None
    trust_remote_code: bool = False

    @property
    def tokenizer(self) -> Path:
        """The folder with the tokenizer that trained."""
        return self.adapter or self.folder

    @property
    def rank(self) -> int:
        """The adapter's highest LoRA rank."""
        config = read_json(self.tokenizer / ADAPTER_CONFIG)
        return max(int(config.get("r", 0)), *map(int, (config.get("rank_pattern") or {}).values()), 0)


def model_name(model: str | Path) -> str:
    """A folder's own name, not where it lies; a hub model's as it is."""
    return Path(model).name if Path(model).is_dir() else str(model)


def find_checkpoint(
    model: str | Path, base: str | Path | None = None, revision: str | None = None, trust_remote_code: bool = False
) -> Checkpoint:
    """A merged folder, an adapter folder with its base, or a hub model, whose files are fetched unless they are here.

    A hub that cannot be reached is no fault where its files are in the cache; it is not even asked for a pinned commit.

    Args:
        base: for an adapter, where its base is now; default: where its config says.
        revision: of the hub model; for an adapter folder of this machine, of its base.

    Raises:
        ModelError: it is not to be had, has no safetensors, or wants to run code.
    """
    folder = local_folder(model, revision, trust_remote_code)
    check_weights(folder, trust_remote_code)
    if not (folder / ADAPTER_CONFIG).is_file():
        _check_complete(folder)
        return Checkpoint(model_name(model), folder, None, trust_remote_code)
    _check_complete(folder)
    below = local_folder(base_of(folder, base), revision if folder == Path(model) else None, trust_remote_code)
    check_weights(below, trust_remote_code)
    _check_complete(below)
    return Checkpoint(model_name(model), below, folder, trust_remote_code)


def base_of(adapter: Path, base: str | Path | None = None) -> str:
    """Where an adapter's base is: as told, else as its config says.

    Raises:
        ModelError: neither says.
    """
    named = base or read_json(adapter / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not named:
        raise ModelError(f"adapter {str(adapter)!r} does not say what its base is; name it")
    return str(named)


def check_weights(folder: Path, trust_remote_code: bool = False) -> None:
    """Look at a folder without opening its weights: a pickle runs code when it is opened (CVE-2025-32434).

    Pickles beside safetensors are never read, and are let be.

    Raises:
        ModelError: the weights are pickled, or the configs name code to run.
    """
    files = [path for path in folder.iterdir() if path.is_file()]
    pickles = sorted(path.name for path in files if path.suffix in PICKLES)
    if pickles and not any(path.suffix == ".safetensors" for path in files):
        raise ModelError(
            f"model {str(folder)!r} has pickled weights ({pickles[0]}), which can run code when they are opened; "
            "convert them to safetensors"
        )
    for config in CONFIGS:
        if not trust_remote_code and "auto_map" in read_json(folder / config):
            raise ModelError(
                f"{config} of model {str(folder)!r} names Python code to run (auto_map); serve a model without, or "
                "allow it with trust_remote_code if you have read that code"
            )


def read_json(path: Path) -> dict[str, Any]:
    """An object; nothing where there is none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def local_folder(model: str | Path, revision: str | None = None, trust_remote_code: bool = False) -> Path:
    """The folder of a model on this machine: itself, or where the hub's cache has it, fetched if need be.

    Raises:
        ModelError: it is neither here nor to be fetched.
    """
    return _folder_with([*FETCHED, *(("*.py",) if trust_remote_code else ())], model, revision)


def small_file(name: str, model: str | Path, revision: str | None = None) -> Path | None:
    """A file that lies beside a model's weights, which are not fetched for it; None where there is none of that name.

    Raises:
        ModelError: neither the hub nor its cache has the model.
    """
    path = Path(model) if str(model).count("/") != 1 else _folder_with([name], model, revision)
    return path / name if (path / name).is_file() else None


def _folder_with(patterns: Sequence[str], model: str | Path, revision: str | None) -> Path:
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub.errors import LocalEntryNotFoundError

    from text2sql.training.model import explained

    fetch = functools.partial(snapshot, str(model), revision)
    with explained(str(model)):
        if revision and COMMIT.fullmatch(revision):
            with contextlib.suppress(LocalEntryNotFoundError):
                cached = fetch(local=True)
                if _is_complete(cached):
                    return cached
        return fetch(patterns)


def _check_complete(folder: Path) -> None:
    if not _is_complete(folder):
        raise ModelError(
            f"model {str(folder)!r} has no safetensors weights, or not all that its index names, and other formats are "
            "refused; convert it to safetensors, or fetch it again"
        )


def _is_complete(folder: Path) -> bool:
    if (folder / ADAPTER_CONFIG).is_file():
        return (folder / ADAPTER_WEIGHTS).is_file()
    shards = set(
        read_json(folder / "model.safetensors.index.json").get("weight_map", {"": "model.safetensors"}).values()
    )
    return all((folder / shard).is_file() for shard in shards)
