"""Which model version a pipeline is about: the one that is named, or the newest that holds a merged model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from text2sql.errors import GateRefusal, ModelError


def find_version(name: str, wanted: str | None, reads: Sequence[str], gated: bool = False) -> int:
    """The number of a version of the model `name`: `wanted` is a number or a stage, None the newest of use.

    Args:
        reads: artifacts that it must have to be of use.
        gated: of use are those whose gate passed. One that is named is found all the same, to be judged by its verdict.

    Raises:
        ModelError: there is none, or it lacks an artifact.
        GateRefusal: no version's gate passed.
    """
    from zenml.client import Client

    versions = Client().list_model_versions(model=name, sort_by="desc:number", size=100, hydrate=True).items
    if wanted is not None:
        versions = [version for version in versions if wanted in (str(version.number), version.name, version.stage)]
        if not versions:
            raise ModelError(f"model {name!r} has no version {wanted!r}; `zenml model version list` shows those it has")
    lacks = {version.number: [name for name in reads if version.get_artifact(name) is None] for version in versions}
    whole = [version for version in versions if not lacks[version.number]]
    if not whole:
        newest = f"; version {versions[0].number} has no {', '.join(lacks[versions[0].number])}" if versions else ""
        raise ModelError(f"model {name!r} has no version to take{newest}; train one: --pipeline train")
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
