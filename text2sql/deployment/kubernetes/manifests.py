"""The objects of a served release, by pure functions over what k8s/ renders: there is no second description of them.

A kustomize overlay says how a server looks; here it gets its model. Which model is said once, in the annotations of the
pod template, and the pods read it from there.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from text2sql.deployment.kubernetes.api import Manifest
from text2sql.deployment.release import Release
from text2sql.errors import DeploymentError

OURS = {"text2sql/applied-by": "deploy-step"}
"""Label of what the deploy step applies; an administrator applies the rest."""
COMPONENT = "app.kubernetes.io/component"
RELEASE = "text2sql/release"
"""Label of a pod: which release it serves."""
TEMPLATE = "text2sql/template"
"""Annotation of a pod: the digest of what it was made from, to tell it from others of its release."""
CANDIDATE = "text2sql-candidate"
"""Deployment and Service of a release on trial."""
RELEASES = "text2sql-releases"
"""ConfigMap with the current and the previous release."""
KUBECTL_SECONDS = 60.0
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where it is there: ten times as fast."""


@dataclass(frozen=True)
class Source:
    """Where pods fetch a folder, and the checksum that it must have."""

    address: str
    digest: str


@dataclass(frozen=True)
class Rendered:
    """What the deploy step applies of an overlay."""

    deployment: Manifest
    service: Manifest
    scaled: bool
    """Whether an autoscaler says how many; then nobody else may."""

    @property
    def in_place(self) -> bool:
        """The old server ends before the new one starts: there is one GPU, or one volume."""
        return (self.deployment["spec"].get("strategy") or {}).get("type") == "Recreate"

    @property
    def serves_adapters(self) -> bool:
        """Whether its pods fetch an adapter, and put it onto their base."""
        annotations = self.deployment["spec"]["template"]["metadata"].get("annotations") or {}
        return "text2sql/adapter-sha256" in annotations

    @property
    def name(self) -> str:
        return str(self.service["metadata"]["name"])

    @property
    def port(self) -> int:
        return int(self.service["spec"]["ports"][0]["port"])

    @property
    def server(self) -> str:
        return str(self.deployment["metadata"]["name"])


@dataclass(frozen=True)
class Served:
    """A release with everything that brings it back exactly as it was."""

    release: Release
    source: str
    server: Manifest
    """Its Deployment."""
    service: Manifest
    since: str = ""

    @property
    def label(self) -> str:
        return label_of(self.release)

    @property
    def engine(self) -> str:
        spec = self.server["spec"]["template"]["spec"]
        names = [container["name"] for container in (*spec.get("initContainers", ()), *spec["containers"])]
        return "vllm" if "vllm" in names else "transformers"

    def serves_like(self, other: Served) -> bool:
        """The same model in the same way."""
        ways = (self.server["spec"], self.service) == (other.server["spec"], other.service)
        return ways and self.release.is_same_as(other.release)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        raw: dict[str, Any] = json.loads(text)
        return cls(**raw | {"release": Release.from_dict(raw["release"])})


def render(path: Path) -> list[Manifest]:
    """The objects of a kustomize folder (by kubectl, which needs no cluster for it), or of a YAML file.

    Raises:
        DeploymentError: it is not there, or kubectl is not, or it makes no sense.
    """
    try:
        if path.is_dir():
            run = subprocess.run(
                ["kubectl", "kustomize", str(path)],
                capture_output=True,
                text=True,
                timeout=KUBECTL_SECONDS,
                check=False,
            )
            if run.returncode:
                raise DeploymentError(f"{path} cannot be rendered: {' '.join(run.stderr.split())[-300:]}")
            text = run.stdout
        else:
            text = path.read_text("utf-8")
        return [document for document in yaml.load_all(text, LOADER) if isinstance(document, dict)]
    except FileNotFoundError as error:
        if error.filename == "kubectl":
            raise DeploymentError(
                f"kubectl renders {path} and is not installed; install it, or name a file that was rendered elsewhere "
                "(kubectl kustomize FOLDER > server.yaml)"
            ) from None
        raise DeploymentError(f"deploy.kubernetes.manifests: there is no {path}") from None
    except (OSError, yaml.YAMLError, subprocess.TimeoutExpired) as error:
        raise DeploymentError(f"{path} cannot be read ({' '.join(str(error).split())[:200]})") from error


def rendered(documents: Sequence[Manifest], namespace: str) -> Rendered:
    """What the deploy step is to apply among them.

    Raises:
        DeploymentError: it is not one Deployment and one Service, or its pods do not ask which model.
    """
    ours = [d for d in documents if OURS.items() <= (d.get("metadata", {}).get("labels") or {}).items()]
    found = {kind: [d for d in ours if d.get("kind") == kind] for kind in ("Deployment", "Service")}
    if any(len(objects) != 1 for objects in found.values()) or len(ours) != 2:
        names = ", ".join(f"{d.get('kind')} {d['metadata'].get('name')}" for d in ours) or "none"
        [label] = [f"{key}={value}" for key, value in OURS.items()]
        raise DeploymentError(
            f"the manifests must have one Deployment and one Service labelled {label}, and have {names}"
        )
    deployment, service = (copy.deepcopy(found[kind][0]) for kind in ("Deployment", "Service"))
    for manifest in (deployment, service):
        manifest["metadata"]["namespace"] = namespace
    if "text2sql/sha256" not in json.dumps(deployment["spec"]["template"]["spec"]):
        name = deployment["metadata"]["name"]
        raise DeploymentError(
            f"Deployment {name} does not read its model from the annotation text2sql/sha256, as k8s/base"
        )
    scaled = any(
        d.get("kind") in ("HorizontalPodAutoscaler", "ScaledObject")
        and d["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
        for d in documents
    )
    return Rendered(deployment, service, scaled)


def server(base: Rendered, release: Release, source: str, adapter: Source | None) -> Manifest:
    """The Deployment that serves a release.

    Raises:
        DeploymentError: it serves adapters, and there is none.
    """
    made = copy.deepcopy(base.deployment)
    template = made["spec"]["template"]
    model = {
        "text2sql/model": release.name,
        "text2sql/model-version": release.version,
        "text2sql/source": source,
        "text2sql/sha256": release.digest,
    }
    if base.serves_adapters:
        if adapter is None:
            raise DeploymentError(
                f"the manifests serve adapters, and {release.title} has none in a store; use an overlay without "
                "components/adapter"
            )
        model |= {"text2sql/adapter-source": adapter.address, "text2sql/adapter-sha256": adapter.digest}
    template["metadata"].setdefault("annotations", {}).update(model)
    template["metadata"].setdefault("labels", {})[RELEASE] = label_of(release)
    template["metadata"]["annotations"][TEMPLATE] = hashlib.sha256(
        json.dumps(template, sort_keys=True).encode()
    ).hexdigest()[:12]
    # Not in the template: a model that is judged again is not to be started again.
    made["metadata"].setdefault("annotations", {}).update(
        model | {"text2sql/gate-verdict": release.verdict, "text2sql/evaluated": release.evaluated}
    )
    if base.scaled:
        made["spec"].pop("replicas", None)
    return made


def service(base: Rendered, release: Release) -> Manifest:
    """The stable address. In place, only pods of a release that has answered its questions are reached by it."""
    made = copy.deepcopy(base.service)
    made["metadata"].setdefault("annotations", {}).update(
        {"text2sql/model-version": release.version, "text2sql/sha256": release.digest}
    )
    if base.in_place:
        made["spec"]["selector"][RELEASE] = label_of(release)
    return made


def candidate(served: Served) -> Manifest:
    """One server beside those that serve, which nobody reaches by the stable address."""
    made = copy.deepcopy(served.server)
    made["metadata"]["name"] = CANDIDATE
    spec = made["spec"]
    spec["replicas"] = 1
    spec["strategy"] = {"type": "Recreate"}
    spec["template"]["spec"].pop("topologySpreadConstraints", None)
    for labels in (made["metadata"]["labels"], spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]):
        labels[COMPONENT] = "candidate"
    return made


def candidate_service(base: Rendered, release: Release) -> Manifest:
    """How the deploy step, and nobody else, reaches a release on trial."""
    made = copy.deepcopy(base.service)
    made["metadata"]["name"] = CANDIDATE
    made["metadata"]["labels"][COMPONENT] = "candidate"
    made["metadata"].pop("annotations", None)
    selector = made["spec"]["selector"]
    selector[RELEASE] = label_of(release)
    if not base.in_place:
        selector[COMPONENT] = "candidate"
    return made


def releases(namespace: str, current: Served | None, previous: Served | None) -> Manifest:
    """What the deploy step remembers, in the cluster: with it any machine can go back."""
    kept = {"current.json": current, "previous.json": previous}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": RELEASES, "namespace": namespace, "labels": dict(OURS)},
        "data": {name: served.to_json() for name, served in kept.items() if served is not None},
    }


def label_of(release: Release) -> str:
    """A label's value that names version and content, such as 3-0123456789ab."""
    version = re.sub(r"[^A-Za-z0-9._-]", "-", release.version)[:40].strip("-_.") or "v"
    return f"{version}-{release.digest[:12]}"
