"""The lint bites: every deliberately broken manifest is found, for its one fault, and sound ones pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from text2sql.deployment.kubernetes.lint import lint

BROKEN = sorted((Path(__file__).parents[2] / "fixtures" / "manifests").glob("*.yaml"))
UNSEEN = {"six-field-cron", "label-value-with-slash", "quantity-in-gb", "bad-cron", "selector-unlike-labels"}
UNSEEN |= {
    "gpu-request-unlike-limit",
    "gpu-request-without-limit",
    "volume-mounted-not-declared",
    "job-that-restarts-always",
}
"""The nine that a schema does not see."""


def read(path: Path) -> tuple[str, list[dict[str, Any]]]:
    text = path.read_text("utf-8")
    return text.splitlines()[0].removeprefix("# says: "), list(yaml.safe_load_all(text))


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_a_broken_manifest_is_found_for_its_one_fault(path: Path):
    says, documents = read(path)
    [problem] = lint(documents, restricted=True, whole=True)
    assert says in str(problem)


@pytest.mark.parametrize("path", [path for path in BROKEN if path.stem in UNSEEN], ids=lambda path: path.stem)
def test_schemas_do_not_see_these(path: Path):
    """Which is why there is a lint at all."""
    for document in read(path)[1]:
        kubernetes_validate.validate(document, "1.36", strict=True)


def test_all_nine_are_there():
    assert {path.stem for path in BROKEN} >= UNSEEN
    assert len(UNSEEN) == 9


def test_pods_are_held_to_restricted_where_their_namespace_asks_for_it():
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]},
    }
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "labels": labels}}
    assert lint([pod]) == []
    assert {problem.path.rpartition(".")[2] for problem in lint([namespace, pod])} == {
        "allowPrivilegeEscalation",
        "runAsNonRoot",
        "seccompProfile",
        "drop",
    }
