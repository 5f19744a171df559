"""Two deployments at once: one of them, whatever the other one is up to."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.deployment.kubernetes.api_server import Fault, StandIn
from tests.deployment.kubernetes.conftest import Place
from text2sql.deployment.kubernetes.lease import NAME, held
from text2sql.errors import DeploymentError


def test_a_second_one_is_refused_until_the_first_has_ended(bare: Place):
    with held(bare.cluster()):
        with pytest.raises(DeploymentError, match=r"another deployment is under way in namespace .* process \d+"):
            bare.deploy("1")
        with pytest.raises(DeploymentError, match="under way"):
            bare.target().rollback(bare.tell)
    assert bare.cluster().get("Lease", NAME) is None
    with held(bare.cluster()) as lease:
        lease.check()


def test_a_dead_ones_lease_is_taken_over_and_a_live_one_renews(bare: Place):
    renewed = (datetime.now(UTC) - timedelta(seconds=5)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    spec = {"holderIdentity": "dead", "leaseDurationSeconds": 4, "renewTime": renewed}
    bare.cluster().create(
        {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME}, "spec": spec}
    )
    with held(bare.cluster(), seconds=1) as lease:
        first = bare.get("Lease", NAME)["spec"]
        assert first["holderIdentity"] != "dead"
        time.sleep(1.2)
        assert bare.get("Lease", NAME)["spec"]["renewTime"] > first["renewTime"]
        lease.check()


def test_one_that_was_taken_away_is_noticed_before_anything_goes_live(place: Place, stand_in: StandIn):
    with held(place.cluster(), seconds=1) as lease:
        stand_in.edit("Lease", NAME, "other", {"spec": {"holderIdentity": "other"}})
        time.sleep(0.6)
        with pytest.raises(DeploymentError, match="another deployment has taken over"):
            lease.check()
    assert place.get("Lease", NAME)["spec"]["holderIdentity"] == "other", "what is another's stays"


def test_one_that_has_gone_between_reading_and_writing_is_not_made_anew(bare: Place):
    """API servers make a Lease by PUT where there is none; its holder would believe it had never lost it."""
    with held(bare.cluster()) as lease:
        found = bare.get("Lease", NAME)
        bare.cluster().delete("Lease", NAME)
        lease._write(found)
        assert bare.cluster().get("Lease", NAME) is None


def test_one_that_cannot_be_renewed_is_noticed(place: Place, stand_in: StandIn):
    with held(place.cluster(), 1) as lease:
        stand_in.faults.append(Fault("GET", "leases", 500, times=5))
        time.sleep(1.8)
        with pytest.raises(DeploymentError, match="could not be renewed: the API server"):
            lease.check()
