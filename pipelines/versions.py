"""Which model version a pipeline is about: the one that is named, or the newest that holds a merged model."""

from __future__ import annotations

import sys
from typing import Any

from text2sql.errors import GateRefusal, ModelError


def find_version(name: str, wanted: str | None, gated: bool = False) -> int:
    """The number of a version of the model `name`: `wanted` is a number or a stage, None the newest of use.

    Args:
        gated: of use are those whose gate passed. One that is named is found all the same, to be judged by its verdict.

    Raises:
        ModelError: there is none, or it holds no merged model.
        GateRefusal: no version's gate passed.
    """
    from zenml.client import Client

    versions = Client().list_model_versions(model=name, sort_by="desc:number", size=100, hydrate=True).items
    if wanted is not None:
        versions = [version for version in versions if wanted in (str(version.number), version.name, version.stage)]
        if not versions:
            raise ModelError(f"model {name!r} has no version {wanted!r}; `zenml model version list` shows those it has")
    whole = [version for version in versions if _is_whole(version)]
    if not whole:
        of = f"version {wanted} of model {name!r}" if wanted else f"no version of model {name!r}"
        raise ModelError(f"{of} {'holds no' if wanted else 'holds a'} merged model; train one: --pipeline train")
    return int(_newest_passed(name, whole).number) if gated and wanted is None else int(whole[0].number)


def _newest_passed(name: str, versions: list[Any]) -> Any:
    newest = versions[0]
    found = next((version for version in versions if version.run_metadata.get("gate_passed") is True), None)
    if found is newest:
        return found
    why = newest.run_metadata.get("gate", "it was not judged")
    if found is None:
        raise GateRefusal(f"no version of model {name!r} has passed its gate; version {newest.number}: {why}")
    print(f"version {newest.number} did not pass its gate ({why}); taking version {found.number}", file=sys.stderr)  # noqa: T201
    return found


def _is_whole(version: Any) -> bool:
    return all(version.get_artifact(name) is not None for name in ("merged_model", "splits"))
