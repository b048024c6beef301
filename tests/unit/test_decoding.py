"""What is used of objects is decoded, and what is not as it should be is left to who takes it."""

from __future__ import annotations

import json

import pytest

from k8s_collector.controllers import controller_of
from k8s_collector.decoding import DECODERS, WHOLE
from k8s_collector.endpoint_slices import endpoint_slice_message
from k8s_collector.nodes import node_message
from k8s_collector.pods import pod_message
from k8s_collector.resources import ENDPOINT_SLICES, JOBS, NODES, OWNERS, PODS, SERVICES, WATCHED
from k8s_collector.services import service_message
from tests.k8s_objects import BEGIN, controller, owned, pod, status

UNUSED = {"managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}], "generation": 7}


def rich_pod(**of_metadata):
    metadata = {"labels": {"tier": "web"}, "annotations": {"team": "shop"}, **UNUSED, **of_metadata}
    kinds = ("containers", "initContainers", "ephemeralContainers")
    ended = {"terminated": {"startedAt": BEGIN, "finishedAt": "2026-01-01T00:00:09Z"}}
    return pod(
        "u1",
        controller("ReplicaSet", "r1"),
        podIPs=[{"ip": "10.0.0.7"}, {"ip": "fd00::7"}],
        podIP="10.0.0.7",
        metadata=metadata,
        spec={"hostNetwork": True, "volumes": [], **{kind: [{"name": kind, "image": f"{kind}:1"}] for kind in kinds}},
        conditions=[{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"}],
        containerStatuses=[status("containers", "containerd://a", **ended)],
        initContainerStatuses=[status("initContainers", "containerd://b", running={"startedAt": BEGIN})],
        ephemeralContainerStatuses=[status("ephemeralContainers", "containerd://c")],
    )


def rich_service():
    return {
        "metadata": owned("s1")["metadata"] | UNUSED,
        "spec": {
            "clusterIP": "10.96.0.1",
            "clusterIPs": ["10.96.0.1", "fd00::1"],
            "externalIPs": ["192.0.2.1"],
            "ports": [{"port": 80, "protocol": "UDP", "name": "http", "nodePort": 30080, "targetPort": "web"}],
            "selector": {"app": "web"},
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.2", "ports": []}, {"hostname": "lb.example"}]}},
    }


def rich_node():
    labels = {"topology.kubernetes.io/zone": "eu-1a", "topology.kubernetes.io/region": "eu-1"}
    addresses = [{"type": "InternalIP", "address": "192.0.2.3"}, {"type": "Hostname", "address": "node-1"}]
    return {
        "metadata": {"uid": "n1", "name": "node-1", "labels": labels, **UNUSED},
        "spec": {"providerID": "aws:///eu-1a/i-1"},
        "status": {"addresses": addresses, "images": [{"names": ["app:1"]}]},
    }


def rich_endpoint_slice():
    labels = {"kubernetes.io/service-name": "database"}
    conditions = {"ready": True}
    return {
        "metadata": {"uid": "e1", "name": "database-1", "namespace": "shop", "labels": labels, **UNUSED},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["192.0.2.7"], "conditions": conditions},
            {"addresses": ["10.1.0.1"], "targetRef": {"kind": "Pod", "name": "p", "uid": "u"}},
        ],
        "ports": [{"port": 5432, "protocol": "TCP", "name": "sql", "appProtocol": "postgres"}],
    }


def event(value, kind="MODIFIED"):
    return json.dumps({"type": kind, "object": value}).encode()


def decoded(resource, value):
    return DECODERS[resource].event(event(value))["object"]


def told_of_pod(value):
    return pod_message(value, ("tier",), ("team",)), controller_of(value["metadata"])


@pytest.mark.parametrize(
    ("resource", "value", "told"),
    [
        (PODS, rich_pod(), told_of_pod),
        (PODS, rich_pod(deletionTimestamp=BEGIN), told_of_pod),
        (PODS, pod("u1", podIP="10.0.0.7", phase="Failed", metadata=UNUSED), told_of_pod),
        (PODS, pod("u1", phase="Failed", conditions=rich_pod()["status"]["conditions"]), told_of_pod),
        (SERVICES, rich_service(), service_message),
        (SERVICES, rich_service() | {"spec": {"clusterIP": "10.96.0.1", "ports": None}}, service_message),
        (NODES, rich_node(), node_message),
        (ENDPOINT_SLICES, rich_endpoint_slice(), endpoint_slice_message),
        (ENDPOINT_SLICES, rich_endpoint_slice() | {"endpoints": None, "ports": None}, endpoint_slice_message),
        (ENDPOINT_SLICES, rich_endpoint_slice() | {"ports": [{"port": None}]}, endpoint_slice_message),
        (
            JOBS,
            owned("j1", controller("CronJob", "c1", version="batch/v1")),
            lambda value: controller_of(value["metadata"]),
        ),
    ],
)
def test_what_is_told_of_an_object_is_what_all_of_it_tells(resource, value, told):
    assert told(decoded(resource, value)) == told(value)


@pytest.mark.parametrize(("resource", "value"), [(PODS, rich_pod()), (SERVICES, rich_service()), (NODES, rich_node())])
def test_what_is_not_used_is_passed_over(resource, value):
    assert not set(decoded(resource, value)["metadata"]) & set(UNUSED)
    unused = {PODS: ("spec", "volumes"), SERVICES: ("spec", "selector"), NODES: ("status", "images")}
    part, field = unused[resource]
    assert field in value[part]
    assert field not in decoded(resource, value)[part]


def test_of_endpoints_only_the_addresses_and_what_they_are_is_decoded():
    value = decoded(ENDPOINT_SLICES, rich_endpoint_slice())
    assert value["endpoints"] == [
        {"addresses": ["192.0.2.7"]},
        {"addresses": ["10.1.0.1"], "targetRef": {"kind": "Pod"}},
    ]


@pytest.mark.parametrize("resource", WATCHED)
def test_pages_and_what_is_between_them(resource):
    body = {"metadata": {"resourceVersion": "7", "continue": "next"}, "items": [owned("a"), owned("b")]}
    page = DECODERS[resource].page(json.dumps(body).encode())
    assert page["metadata"] == body["metadata"]
    assert [value["metadata"]["uid"] for value in page["items"]] == ["a", "b"]
    assert DECODERS[resource].page(b'{"metadata": {}, "items": null}')["items"] is None


@pytest.mark.parametrize("resource", WATCHED)
def test_an_error_of_a_watch_says_why(resource):
    why = {
        "kind": "Status",
        "status": "Failure",
        "metadata": {},
        "message": "too old",
        "reason": "Expired",
        "code": 410,
    }
    error = DECODERS[resource].event(event(why, "ERROR"))
    assert (error["type"], error["object"]["code"], error["object"]["message"]) == ("ERROR", 410, "too old")


@pytest.mark.parametrize("resource", OWNERS)
def test_of_owners_only_the_metadata_are_decoded(resource):
    assert set(decoded(resource, owned("r1") | {"spec": {"replicas": 3}})) == {"metadata"}


def test_an_object_that_is_not_as_it_should_be_costs_no_other():
    body = {"metadata": {"resourceVersion": "7"}, "items": [rich_pod(), {"metadata": {"uid": 7}, "spec": "none"}]}
    assert DECODERS[PODS].page(json.dumps(body).encode()) == body
    assert decoded(PODS, {"metadata": {"uid": "u1"}, "status": "none"}) == {"metadata": {"uid": "u1"}, "status": "none"}


@pytest.mark.parametrize("text", [b"", b"<html>", b'{"type": "ADDED"', b'{"a":' * 100_000])
def test_what_is_no_json(text):
    for decode in (WHOLE, DECODERS[PODS].page, DECODERS[PODS].event):
        with pytest.raises(ValueError):
            decode(text)


@pytest.mark.parametrize("decode", [WHOLE, DECODERS[PODS].event])
def test_a_number_that_is_none_of_json_is_one_clear_error(decode):
    with pytest.raises(ValueError, match="out of range"):
        decode(b'{"object": {"metadata": {"uid": 1, "generation": 1e999}}}')
