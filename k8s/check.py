"""python k8s/check.py [FOLDER …]: render overlays (default: all of k8s/overlays), and say what a cluster would refuse.

Every object goes through `kubernetes-validate --strict`'s schemas and through our own lint. Kinds that an operator
brings (ServiceMonitor, ScaledObject, HTTPRoute, …) have no schema there, and are linted alone. With --server the
cluster of the kubeconfig is asked besides, by a dry run in a namespace of it, which changes nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from text2sql.deployment.kubernetes.api import Cluster  # noqa: E402
from text2sql.deployment.kubernetes.dry_run import dry_run  # noqa: E402
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


def check(folder: Path, cluster: Cluster | None) -> bool:
    """Render a kustomize folder, and print what is wrong with it; whether nothing is."""
    notes: list[str] = []
    asked = ""
    try:
        documents = render(folder)
        problems = schema_problems(documents) + [str(problem) for problem in lint(documents, whole=True)]
        if cluster is not None:
            tried = dry_run(cluster, documents)
            problems, notes = problems + tried.problems, tried.notes
            asked = f", {tried.taken} taken by {cluster.server} (pods of workloads counted too)"
    except Text2SQLError as error:
        documents, problems = [], [str(error)]
    print(f"{folder.name}: {len(documents)} objects, {len(problems) or 'no'} problems{asked}")
    for line in problems + [f"(note) {note}" for note in notes]:
        print(f"  {line}")
    return not problems


def main(words: Sequence[str]) -> int:
    """1 where anything is wrong."""
    parser = argparse.ArgumentParser(prog="k8s/check.py", description="Say what a cluster would refuse of overlays.")
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--server", action="store_true", help="ask the cluster of the kubeconfig too (dry run)")
    parser.add_argument("--namespace", default="text2sql", help="of it, in which that is tried")
    given = parser.parse_args(words)
    try:
        cluster = Cluster.connect(given.namespace) if given.server else None
    except Text2SQLError as error:
        print(error)
        return 1
    folders = given.folders or sorted((HERE / "overlays").iterdir())
    failed = [folder for folder in folders if not check(folder, cluster)]  # every one is told of
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
