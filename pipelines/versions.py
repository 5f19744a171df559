"""Which model version a pipeline is about: the one that is named, or the newest that holds a merged model."""

from __future__ import annotations

from typing import Any

from text2sql.errors import ModelError


def find_version(name: str, wanted: str | None) -> int:
    """The number of a version of the model `name`: `wanted` is a number or a stage, None the newest of use.

    Raises:
        ModelError: there is none, or it holds no merged model.
    """
    from zenml.client import Client

    versions = Client().list_model_versions(model=name, sort_by="desc:number", size=100, hydrate=True).items
    if wanted is not None:
        versions = [version for version in versions if wanted in (str(version.number), version.name, version.stage)]
        if not versions:
            raise ModelError(f"model {name!r} has no version {wanted!r}; `zenml model version list` shows those it has")
    found = next((version for version in versions if _is_whole(version)), None)
    if found is None:
        of = f"version {wanted} of model {name!r}" if wanted else f"no version of model {name!r}"
        raise ModelError(f"{of} {'holds no' if wanted else 'holds a'} merged model; train one: --pipeline train")
    return int(found.number)


def _is_whole(version: Any) -> bool:
    return all(version.get_artifact(name) is not None for name in ("merged_model", "splits"))
