"""python k8s/check.py [FOLDER …]: render overlays (default: all of k8s/overlays), and say what a cluster would refuse.

Every object goes through `kubernetes-validate --strict`'s schemas and through our own lint. Kinds that an operator
brings (ServiceMonitor, ScaledObject, HTTPRoute, …) have no schema there, and are linted alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from text2sql.deployment.kubernetes.lint import lint  # noqa: E402
from text2sql.deployment.kubernetes.manifests import render  # noqa: E402
from text2sql.errors import Text2SQLError  # noqa: E402

OPERATORS = ("monitoring.coreos.com/", "keda.sh/", "gateway.networking.k8s.io/")
VERSION = "1.36"


def schema_problems(documents: Sequence[dict[str, Any]]) -> list[str]:
    """Unknown fields and wrong types."""
    problems = []
    for document in documents:
        if str(document.get("apiVersion", "")).startswith(OPERATORS):
            continue
        name = f"{document.get('kind')} {document.get('metadata', {}).get('name')}"
        try:
            kubernetes_validate.validate(document, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            problems.append(f"{name}: {'.'.join(map(str, error.path))}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError:
            problems.append(
                f"{name}: Kubernetes {VERSION} knows no {document.get('apiVersion')} {document.get('kind')}"
            )
    return problems


def check(folder: Path) -> tuple[int, list[str]]:
    """How many objects a kustomize folder renders to, and what is wrong with them."""
    documents = render(folder)
    return len(documents), schema_problems(documents) + [str(problem) for problem in lint(documents, whole=True)]


def main(folders: Sequence[str]) -> int:
    """1 where anything is wrong."""
    failed = False
    for folder in [Path(name) for name in folders] or sorted((HERE / "overlays").iterdir()):
        try:
            count, problems = check(folder)
        except Text2SQLError as error:
            count, problems = 0, [str(error)]
        print(f"{folder.name}: {count} objects, {len(problems) or 'no'} problems")
        for problem in problems:
            print(f"  {problem}")
        failed = failed or bool(problems)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
