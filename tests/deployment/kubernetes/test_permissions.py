"""The Role of k8s/base grants what the deploy step does, and is never asked for more."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.deployment.kubernetes.api_server import StandIn
from tests.deployment.kubernetes.conftest import REAL, Place
from text2sql.deployment.kubernetes.needs import accesses
from text2sql.errors import DeploymentError

ROLE = yaml.safe_load((Path(__file__).parents[3] / "k8s" / "base" / "role-deploy.yaml").read_text("utf-8"))
VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/v1/namespaces/test/(?P<kind>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>log|proxy))?.*"
)


QUESTIONS = re.compile(
    r".*/(selfsubjectaccessreviews|nodes|namespaces/[^/]+|(secrets|persistentvolumeclaims|serviceaccounts)/.*|configmaps/program)"
)
"""What is looked at beforehand by whoever may; who may not goes on without."""


def asked(requests: list[tuple[str, str]]) -> Iterator[tuple[str, str, str, str]]:
    """Verb, group, resource and name, as the API server takes a request for its authoriser."""
    for method, target in requests:
        if QUESTIONS.fullmatch(target):
            continue
        match = PATH.fullmatch(urlsplit(target).path)
        assert match is not None, target
        group, kind, name, sub = match["group"] or "", match["kind"], match["name"] or "", match["sub"]
        verb = "list" if method == "GET" and not name else VERBS[method]
        yield verb, group, f"{kind}/{sub}" if sub else kind, name


def grants(rule: dict[str, Any], verb: str, group: str, resource: str, name: str) -> bool:
    named = rule.get("resourceNames")
    return (
        verb in rule["verbs"]
        and group in rule["apiGroups"]
        and resource in rule["resources"]
        and (named is None or name in named)
    )


def test_what_is_asked_about_beforehand_is_what_is_granted(bare: Place):
    """Renewing the Lease apart: whoever may create it holds it by then."""
    base = bare.target()._base
    asked_for = {(one.verb, one.group, one.resource) for one in accesses(base, by_proxy=True)}
    granted = {
        (verb, group, resource)
        for rule in ROLE["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert asked_for == {one for one in granted if one[2] != "leases"}
    assert all(
        any(grants(rule, one.verb, one.group, one.resource, one.name) for rule in ROLE["rules"])
        for one in accesses(base, by_proxy=True)
    )


def test_what_is_done_is_granted_and_what_is_granted_is_done(either: Place, stand_in: StandIn):
    either.deploy("1")
    for behaviour in ("crash", "wrong"):
        with pytest.raises(DeploymentError):
            either.deploy("2", behaviour)
    either.deploy("3")
    either.target().rollback(either.tell)
    either.target().status()
    either.target().stop(either.tell)
    done = {*asked(stand_in.requests)} | {("update", "coordination.k8s.io", "leases", "text2sql-deploy")}
    done |= {("create", group, kind, "") for verb, group, kind, name in done if verb == "patch"}  # made by an apply
    refused = {one for one in done if not any(grants(rule, *one) for rule in ROLE["rules"])}
    assert not refused
    idle = [
        (verb, resource)
        for rule in ROLE["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if not any(grants(rule, *one) and (one[0], one[1], one[2]) == (verb, group, resource) for one in done)
    ]
    assert not idle, "least privilege"


@pytest.mark.skipif(not REAL, reason="TEXT2SQL_TEST_CLUSTER=1 asks a real API server, which knows who may do what")
def test_an_account_with_that_role_and_no_other_can_do_it_all(place: Place):
    cluster, space = place.cluster(), place.namespace
    account = f"/api/v1/namespaces/{space}/serviceaccounts/default/token"
    rules = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{space}"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    place.token = cluster.ask("POST", account, body=body).said["status"]["token"]
    with pytest.raises(
        DeploymentError, match="no permission to create Lease text2sql-deploy .*bind Role text2sql-deploy"
    ):
        place.deploy("1")
    assert cluster.ask("POST", f"{rules}/roles", body=ROLE).ok
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": space}
    binding = {
        "apiVersion": ROLE["apiVersion"],
        "kind": "RoleBinding",
        "metadata": {"name": "text2sql-deploy"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "text2sql-deploy"},
        "subjects": [subject],
    }
    assert cluster.ask("POST", f"{rules}/rolebindings", body=binding).ok
    time.sleep(2)  # the authoriser hears of it by a watch
    place.deploy("1")
    with pytest.raises(DeploymentError, match="version 1 serves on"):
        place.deploy("2", "wrong")
    place.deploy("3")
    assert place.target().rollback(place.tell).version == "1"
    assert place.version() == "1"
    place.target().stop(place.tell)
