"""Which model version a pipeline is about: the one that is named, or the newest that holds a merged model."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
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
    from zenml.utils.pagination_utils import depaginate_stream

    versions: Iterator[Any] = depaginate_stream(
        Client().list_model_versions, model=name, sort_by="desc:number", hydrate=True
    )
    if wanted is not None:
        named = (version for version in versions if wanted in (str(version.number), version.name, version.stage))
        if (found := next(named, None)) is None:
            raise ModelError(f"model {name!r} has no version {wanted!r}; `zenml model version list` shows those it has")
        versions = iter((found,))
    first = next(versions, None)
    whole = (version for version in chain((first,), versions) if version and not _lacks(version, reads))
    newest = next(whole, None)
    if newest is None:
        why = f"; version {first.number} has no {', '.join(_lacks(first, reads))}" if first else ""
        raise ModelError(f"model {name!r} has no version to take{why}; train one: --pipeline train")
    return int(_newest_passed(name, chain((newest,), whole)).number) if gated and wanted is None else int(newest.number)


def _lacks(version: Any, reads: Sequence[str]) -> list[str]:
    return [name for name in reads if version.get_artifact(name) is None]


def _newest_passed(name: str, versions: Iterable[Any]) -> Any:
    versions = iter(versions)
    newest = next(versions)
    found = next((v for v in chain((newest,), versions) if v.run_metadata.get("gate_passed") is True), None)
    if found is newest:
        return found
    why = newest.run_metadata.get("gate", "it was not judged")
    if found is None:
        raise GateRefusal(f"no version of model {name!r} has passed its gate; version {newest.number}: {why}")
    print(f"version {newest.number} did not pass its gate ({why}); taking version {found.number}", file=sys.stderr)  # noqa: T201
    return found
