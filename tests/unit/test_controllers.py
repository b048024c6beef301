from __future__ import annotations

import pytest

from k8s_collector.controllers import Owner, Owners, controller_of
from tests.k8s_objects import controller, owned

REPLICA_SET = Owner("ReplicaSet", "web-1", "rs", "apps")
DEPLOYMENT = Owner("Deployment", "web", "d", "apps")


def test_the_controller_is_one_of_the_owners():
    metadata = {"ownerReferences": [controller("Deployment", "a") | {"controller": False}, controller("CloneSet", "b")]}
    assert controller_of(metadata) == Owner("CloneSet", "cloneset-b", "b", "apps")
    assert controller_of({"ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "x"}]}) is None
    assert controller_of({}) is None


def test_a_static_pod_has_none():
    assert controller_of(owned("p", controller("Node", "n", version="v1"))["metadata"]) is None


def test_the_last_of_the_chain():
    owners = Owners()
    assert owners.top(REPLICA_SET) == (REPLICA_SET, False)
    assert owners.set("rs", DEPLOYMENT)
    assert owners.top(REPLICA_SET) == (DEPLOYMENT, True)
    assert not owners.set("rs", DEPLOYMENT)
    assert owners.set("rs", None)
    assert owners.top(REPLICA_SET) == (REPLICA_SET, True)
    owners.retire("rs")
    assert owners.top(REPLICA_SET) == (REPLICA_SET, False)


@pytest.mark.parametrize(
    "owner",
    [
        Owner("StatefulSet", "db", "s", "apps"),
        Owner("Rollout", "web", "r", "argoproj.io"),
        Owner("Job", "train", "j", "batch.volcano.sh"),  # of the same name as one that may have a CronJob
    ],
)
def test_other_controllers_are_the_last(owner):
    assert Owners().top(owner) == (owner, True)


def test_a_chain_without_an_end():
    owners = Owners()
    owners.set("rs", REPLICA_SET)
    assert owners.top(REPLICA_SET) == (REPLICA_SET, False)
