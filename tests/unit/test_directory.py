import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from intake.clock import SECOND_NS
from reducer.knowledge import directory as module
from reducer.knowledge.directory import Directory
from reducer.knowledge.entities import Container, Pod
from reducer.knowledge.timeline import keys_of, place_of, scope_of
from reducer.knowledge.told import ANY_NODE, port_number, told_entities
from tests.rows import packed, session_id

K8S, CLOUD = intake_pb2.COLLECTOR_KIND_K8S, intake_pb2.COLLECTOR_KIND_CLOUD
ENVIRONMENT = "prod"
SLACK_S = 5


class Told:
    """A directory that sessions tell of a cluster; times in seconds."""

    def __init__(self):
        self.directory = Directory(SLACK_S * SECOND_NS)

    def hello(self, number, host="k8s-0", environment=ENVIRONMENT, kind=K8S):
        self.directory.hello(session_id(number), intake_pb2.Host(name=host, environment=environment), kind)

    def snapshot(self, number, at_s, *, partial=False, **entities):
        told = intake_pb2.Entities(**entities)
        self.directory.snapshot(session_id(number), ENVIRONMENT, told, at_s * SECOND_NS, partial=partial)

    def learn(self, number, at_s, **entities):
        told = intake_pb2.Entities(**entities)
        self.directory.learn(session_id(number), ENVIRONMENT, told, at_s * SECOND_NS)

    def closed(self, number, at_s):
        self.directory.closed(session_id(number), at_s * SECOND_NS)

    def at(self, address, *times_s, timeline="pods", scope=ENVIRONMENT, port=0):
        """Return the names of who had an address at some times."""
        view = self.directory.view()
        words = np.frombuffer(address if isinstance(address, bytes) else packed(address), np.uint64).reshape(-1, 2)
        key = np.repeat(keys_of(place_of(words, np.array([port])), scope_of(scope)), len(times_s))
        numbers, _ = getattr(view, timeline).find(key, np.array(times_s) * SECOND_NS)
        return [self.name(number) for number in numbers.tolist()]

    def name(self, number):
        entity = self.directory.view().entities[number]
        return getattr(entity, "name", getattr(entity, "role", None)) if number else None


@pytest.fixture
def told():
    made = Told()
    made.hello(0)
    return made


def pod(name, *addresses, **fields):
    fields = {"uid": f"uid-{name}", "owner_kind": "Deployment", "owner_name": name, "owner_uid": "o"} | fields
    return intake_pb2.Pod(name=name, namespace="shop", addresses=map(packed, addresses), **fields)


def seconds(**times):
    return {f"{name}_time_unix_ns": value * SECOND_NS for name, value in times.items()}


def test_an_address_that_is_given_on_names_each_time(told):
    told.learn(0, 100, pods=[pod("a", "10.1.0.1", **seconds(start=100))])
    told.learn(0, 120, pods=[pod("a", "10.1.0.1", **seconds(start=100, end=120))])
    told.learn(0, 140, pods=[pod("b", "10.1.0.1", **seconds(start=140))])
    assert told.at("10.1.0.1", 99, 100, 119, 124, 130, 140, 999) == [None, "a", "a", "a", None, "b", "b"]


def test_a_pod_has_all_its_addresses_but_none_of_the_hosts_network(told):
    told.learn(0, 100, pods=[pod("a", "10.1.0.1", "fd00::1"), pod("b", "10.0.0.9", host_network=True)])
    assert [told.at(address, 100) for address in ("10.1.0.1", "fd00::1", "10.0.0.9")] == [["a"], ["a"], [None]]
    assert told.name(told.directory.view().of_pod("uid-b")) == "b"


def test_a_retired_pod_names_what_was_before(told):
    told.learn(0, 100, pods=[pod("a", "10.1.0.1")])
    told.learn(0, 150, retired_pods=["uid-a", "never told"])
    assert told.at("10.1.0.1", 90, 149, 154, 155) == ["a", "a", "a", None]
    told.learn(0, 160, pods=[pod("a", "10.1.0.1")])
    assert told.at("10.1.0.1", 170) == ["a"]


def test_a_pod_that_ran_to_its_end_has_no_address(told):
    told.learn(0, 100, pods=[pod("a", "10.1.0.1")])
    for at_s in (150, 180):
        told.learn(0, at_s, pods=[pod("a", "10.1.0.1", phase="Succeeded")])
    assert told.at("10.1.0.1", 149, 160) == ["a", None]


def test_changes_of_a_pod_are_taken(told):
    told.learn(0, 100, pods=[pod("a", owner_name="")])
    number = told.directory.view().of_pod("uid-a")
    revision = told.directory.view().revision[number]
    told.learn(0, 110, pods=[pod("a", "10.1.0.1")])
    told.learn(0, 130, pods=[pod("a", "10.1.0.2")])
    view = told.directory.view()
    assert view.revision[number] > revision
    assert (told.at("10.1.0.1", 120, 140), told.at("10.1.0.2", 140)) == (["a", None], ["a"])
    told.learn(0, 150, pods=[pod("a", "10.1.0.2")])
    assert told.directory.view().revision[number] == view.revision[number]


@pytest.mark.parametrize("first", ["older", "younger"])
def test_pods_that_exchange_their_addresses_have_those_of_now(told, first):
    """As on a node that has started again; whose address changes first still shows that of the other one."""
    start = {"older": 100, "younger": 150}
    now = {"older": "10.1.0.1", "younger": "10.1.0.2"}
    for name, address in now.items():
        told.learn(0, 200, pods=[pod(name, address, **seconds(start=start[name]))])
    now = {"older": "10.1.0.2", "younger": "10.1.0.1"}
    for at_s, name in enumerate(sorted(now, key=lambda name: name != first), 300):
        told.learn(0, at_s, pods=[pod(name, now[name], **seconds(start=start[name]))])
    assert told.at("10.1.0.1", 120, 250, 350) == ["older", "older", "younger"]
    assert told.at("10.1.0.2", 120, 250, 350) == [None, "younger", "older"]
    # The collector starts again; then one pod is gone, and another one comes.
    told.hello(1)
    told.closed(0, 400)
    told.snapshot(1, 401, pods=[pod(name, now[name], **seconds(start=start[name])) for name in now])
    assert [told.at(address, 450) for address in ("10.1.0.1", "10.1.0.2")] == [["younger"], ["older"]]
    told.learn(1, 500, retired_pods=["uid-older"])
    told.learn(1, 600, pods=[pod("next", "10.1.0.2", **seconds(start=600))])
    assert told.at("10.1.0.2", 250, 450, 550, 650) == ["younger", "older", None, "next"]


def test_containers_are_found_by_their_ids(told):
    told.learn(0, 100, pods=[pod("a", containers=[{"id": "c1", "name": "web"}, {"name": "starts"}])])
    view = told.directory.view()
    assert view.of_container["c1"] == view.of_pod("uid-a")
    told.learn(0, 110, pods=[pod("a", containers=[{"id": "c2", "name": "web"}])])
    assert dict(told.directory.view().of_container) == {"c2": view.of_pod("uid-a")}


def test_pods_have_the_zone_of_their_node(told):
    told.learn(0, 100, pods=[pod("a", node="n")])
    number = told.directory.view().of_pod("uid-a")
    told.learn(0, 110, nodes=[{"uid": "n", "name": "n", "zone": "eu-1a"}])
    told.learn(0, 120, pods=[pod("b", node="n")])
    entities = told.directory.view().entities
    assert entities[number] == Pod(ENVIRONMENT, "shop", "a", "a", "o", "n", (), "eu-1a")
    assert entities[told.directory.view().of_pod("uid-b")].zone == "eu-1a"
    told.learn(0, 130, nodes=[{"uid": "n", "name": "n", "zone": "eu-1b"}])
    assert told.directory.view().entities[number].zone == "eu-1b"


def test_services_have_ports_of_their_addresses_and_of_all_nodes(told):
    ports = [{"port": 80, "protocol": 6, "node_port": 30080}]
    service = intake_pb2.KubernetesService(uid="s", name="web", addresses=[packed("10.2.0.1")], ports=ports)
    told.learn(0, 100, services=[service])
    where = {"timeline": "services"}
    assert told.at("10.2.0.1", 100, port=port_number(6, 80), **where) == ["web"]
    assert told.at("10.2.0.1", 100, **where) == ["web"]
    assert told.at("10.2.0.1", 100, port=port_number(17, 80), **where) == [None]
    assert told.at(ANY_NODE, 100, port=port_number(6, 30080), **where) == ["web"]
    told.learn(0, 110, retired_services=["s"])
    assert told.at("10.2.0.1", 120, **where) == [None]


def test_what_one_of_two_slices_of_a_service_has_alone_ends_with_it(told):
    ports = ([{"port": 80, "protocol": 6}], [{"port": 443, "protocol": 6}])
    for name, its in zip("ab", ports, strict=True):
        address = packed("192.0.2.7")
        told.learn(0, 100, services=[{"uid": name, "name": name, "addresses": [address], "ports": its}])
    told.learn(0, 110, retired_services=["b"])
    where = {"timeline": "services"}
    assert told.at("192.0.2.7", 105, 120, port=port_number(6, 80), **where) == ["a", "a"]
    assert told.at("192.0.2.7", 105, 120, port=port_number(6, 443), **where) == ["b", None]
    assert told.at("192.0.2.7", 105, 120, **where) == ["b", "a"]


def test_interfaces_have_private_addresses_in_their_network_and_public_ones_everywhere(told):
    interface = intake_pb2.CloudInterface(
        id="eni-1", provider="aws", network="vpc-1", instance_id="i-1", role="db", addresses=[packed("10.0.0.5")]
    )
    interface.public_addresses.add(public=packed("54.1.1.1"), private=packed("10.0.0.5"))
    told.learn(0, 100, cloud_interfaces=[interface])
    where = {"timeline": "interfaces"}
    assert told.at("10.0.0.5", 100, scope="vpc-1", **where) == ["db"]
    assert told.at("10.0.0.5", 100, scope="vpc-2", **where) == [None]
    assert told.at("54.1.1.1", 100, scope="", **where) == ["db"]
    assert told.directory.view().networks["aws", "i-1"] == "vpc-1"
    told.learn(0, 110, retired_cloud_interfaces=["eni-1"])
    assert told.at("54.1.1.1", 120, scope="", **where) == [None]


@pytest.mark.parametrize(
    ("fields", "role"),
    [
        ({"role": "db", "description": "d"}, "db"),
        ({"description": "Interface for NAT Gateway nat-1", "instance_id": "i-1"}, "NAT Gateway nat-1"),
        ({"instance_id": "i-1"}, "i-1"),
        ({}, "eni-1"),
    ],
)
def test_what_an_interface_serves(told, fields, role):
    interface = intake_pb2.CloudInterface(id="eni-1", provider="aws", addresses=[packed("10.0.0.5")], **fields)
    told.learn(0, 100, cloud_interfaces=[interface])
    assert told.at("10.0.0.5", 100, timeline="interfaces", scope="") == [role]


def alive(told, *names, at_s=1000):
    """Return which of the pods, each with an address of its own, have it."""
    return [name for name in names if told.at(f"10.1.0.{ord(name) - 96}", at_s) == [name]]


def pods(names):
    return [pod(name, f"10.1.0.{ord(name) - 96}") for name in names]


def test_a_snapshot_ends_what_it_does_not_name(told):
    told.snapshot(0, 100, pods=pods("abc"))
    told.snapshot(0, 200, pods=pods("bd"))
    assert alive(told, *"abcd") == ["b", "d"]
    assert told.at("10.1.0.1", 150) == ["a"]


def test_a_snapshot_in_parts_ends_what_none_of_them_names(told):
    told.snapshot(0, 100, pods=pods("abc"))
    told.snapshot(0, 200, partial=True, pods=pods("b"))
    told.learn(0, 205, pods=pods("e"))
    assert alive(told, *"abce") == ["a", "b", "c", "e"]
    told.snapshot(0, 210, partial=True, pods=pods("d"))
    told.snapshot(0, 220)
    assert alive(told, *"abcde") == ["b", "d"]


@pytest.mark.parametrize("noticed", [True, False])
def test_a_snapshot_that_was_cut_off_ends_nothing(told, noticed):
    told.snapshot(0, 100, pods=pods("abc"))
    told.snapshot(0, 200, partial=True, pods=pods("b"))
    if noticed:
        told.closed(0, 210)
    assert alive(told, *"abc") == ["a", "b", "c"]
    told.hello(0)
    told.snapshot(0, 220, partial=True, pods=pods("a"))
    told.snapshot(0, 230, pods=pods("c"))
    assert alive(told, *"abc") == ["a", "c"]


def test_a_collector_that_starts_again_ends_what_vanished_once_its_snapshot_is_whole(told):
    told.snapshot(0, 100, pods=pods("abc"))
    told.closed(0, 150)
    told.hello(1)
    told.snapshot(1, 200, partial=True, pods=pods("b"))
    assert alive(told, *"abc") == ["a", "b", "c"]
    told.snapshot(1, 210, pods=pods("d"))
    assert alive(told, *"abcd") == ["b", "d"]


def test_a_connection_that_was_not_known_to_be_dead_ends_later(told):
    told.snapshot(0, 100, pods=pods("ab"))
    told.hello(1)
    told.snapshot(1, 200, pods=pods("b"))
    assert alive(told, *"ab") == ["a", "b"]
    told.closed(0, 230)
    assert alive(told, *"ab") == ["b"]


def test_what_one_of_two_replicas_retires_stays_while_the_other_tells_it(told):
    told.hello(1, host="k8s-1")
    told.snapshot(0, 100, pods=pods("ab"))
    told.snapshot(1, 110, pods=pods("ab"))
    told.learn(0, 120, retired_pods=["uid-a"])
    assert alive(told, *"ab") == ["a", "b"]
    told.learn(1, 130, retired_pods=["uid-a"])
    assert alive(told, *"ab") == ["b"]


@pytest.mark.parametrize(
    ("session", "ended"),
    [
        ({"host": "k8s-9"}, True),  # the same cluster by its label
        ({"host": "k8s-9", "environment": ""}, False),
        ({"environment": "test"}, False),
        ({"kind": CLOUD}, False),
    ],
)
def test_another_clusters_collector_ends_nothing(told, session, ended):
    told.snapshot(0, 100, pods=pods("ab"))
    told.closed(0, 150)
    told.hello(1, **session)
    told.snapshot(1, 200, pods=pods("c"))
    assert (alive(told, *"ab") == []) == ended


def test_collectors_without_labels_are_of_one_cluster_if_they_tell_of_the_same():
    for later in ("bc", "cd"):
        told = Told()
        told.hello(0, environment="")
        told.snapshot(0, 100, pods=pods("ab"))
        told.closed(0, 150)
        told.hello(1, host="k8s-9", environment="")
        told.snapshot(1, 200, pods=pods(later))
        assert (told.at("10.1.0.1", 300, scope="") == [None]) == (later == "bc")


def test_a_collector_that_does_not_come_back_tells_nothing_in_the_end(told):
    told.snapshot(0, 100, pods=pods("a"))
    told.closed(0, 150)
    told.directory.collect(3700 * SECOND_NS)
    assert alive(told, "a", at_s=3900) == ["a"]
    told.directory.collect(3800 * SECOND_NS)
    assert alive(told, "a", at_s=3900) == []


def test_ended_pods_are_kept_for_a_while(told):
    told.learn(0, 100, pods=pods("a"))
    told.learn(0, 200, retired_pods=["uid-a"])
    told.directory.collect(700 * SECOND_NS)
    assert told.at("10.1.0.1", 150) == ["a"]
    generation = told.directory.view().generation
    told.directory.collect(900 * SECOND_NS)
    assert told.at("10.1.0.1", 150) == [None]
    assert (len(told.directory), told.directory.view().of_pod("uid-a")) == (0, 0)
    assert told.directory.view().generation > generation


def test_pods_that_come_and_go_take_no_room(told, monkeypatch):
    monkeypatch.setattr(module, "MOST_ENDED", 10)
    for at_s in range(100, 400):
        name = f"p{at_s}"
        told.learn(0, at_s, pods=[pod(name, "10.1.0.1", containers=[{"id": name}], node=name)])
        told.learn(0, at_s, nodes=[{"uid": name, "name": name, "zone": "z"}])
        told.learn(0, at_s, retired_pods=[f"uid-{name}"], retired_nodes=[name])
        told.directory.collect(at_s * SECOND_NS)
    directory = told.directory
    assert len(directory) <= 12
    assert len(directory.view().entities) < 50
    assert len(directory._timelines["pods"]) <= 12
    ways = (directory._of_container, directory._zones.of, directory._zones._said, directory._pods_on)
    assert max(map(len, ways)) <= 12


def test_a_pod_whose_addresses_change_again_and_again_takes_no_room(told):
    for at_s in range(100, 400):
        told.learn(0, at_s, pods=[pod("a", f"10.1.{at_s % 256}.1")])
    assert len(told.directory._timelines["pods"]) <= module.MOST_PAST_CLAIMS + 1
    [record] = told.directory._records.values()
    assert len(record.later) == len(record.claims) == 1


def test_a_node_that_registers_again_keeps_its_zone_when_the_former_one_is_forgotten(told):
    told.learn(0, 100, nodes=[{"uid": "former", "name": "n", "zone": "a"}])
    told.learn(0, 200, nodes=[{"uid": "now", "name": "n", "zone": "b"}], retired_nodes=["former"])
    told.directory.collect(900 * SECOND_NS)  # long after the former one ended
    told.learn(0, 901, pods=[pod("web", "10.1.0.1", node="n")])
    view = told.directory.view()
    assert view.entities[view.of_pod("uid-web")].zone == "b"


def test_pods_lose_the_zone_of_a_node_that_has_another_name_now(told):
    told.learn(0, 100, nodes=[{"uid": "n", "name": "n", "zone": "a"}])
    told.learn(0, 100, pods=[pod("web", "10.0.0.1", node="n")])

    def zone():
        view = told.directory.view()
        return view.entities[view.of_pod("uid-web")].zone

    assert zone() == "a"
    told.learn(0, 200, nodes=[{"uid": "n", "name": "other", "zone": "a"}])
    assert zone() == ""


def test_a_machine_that_loses_an_interface_stays_in_its_network(told):
    told.hello(1, kind=CLOUD)
    of_machine = {"provider": "aws", "instance_id": "i-1", "network": "vpc-1"}
    told.learn(1, 100, cloud_interfaces=[{"id": "eni-1", **of_machine}, {"id": "eni-2", **of_machine}])
    told.learn(1, 101, retired_cloud_interfaces=["eni-2"])
    told.directory.collect(900 * SECOND_NS)
    assert dict(told.directory.view().networks) == {("aws", "i-1"): "vpc-1"}
    told.learn(1, 901, retired_cloud_interfaces=["eni-1"])
    told.directory.collect(1800 * SECOND_NS)
    assert dict(told.directory.view().networks) == {}


def test_texts_of_entities_that_are_too_many_are_refused_and_counted(told, monkeypatch):
    fat = pod("a", "10.1.0.1", containers=[{"id": f"{number}", "image": "i" * 200} for number in range(100)])
    monkeypatch.setattr(module, "MOST_BYTES", 3 * 100 * 350)
    told.learn(0, 100, pods=[fat])
    others = [pod(name, "10.1.0.2", containers=fat.containers) for name in "bcd"]
    told.learn(0, 101, pods=others)
    assert (len(told.directory), told.directory.refused) == (3, 1)
    told.learn(0, 102, pods=[fat], retired_pods=["uid-b"])  # what is known may be told again
    assert told.directory.refused == 1
    told.learn(0, 103, pods=[others[-1]])  # what has ended is kept for a while
    assert told.directory.refused == 2
    told.directory.collect(900 * SECOND_NS)
    told.learn(0, 901, pods=[others[-1]])
    assert (len(told.directory), told.directory.refused) == (3, 2)


def test_collectors_that_told_nothing_take_no_room(told):
    for number in range(1, 100):
        told.hello(number)
        told.closed(number, 100)
    assert len(told.directory._tellers) == 1


def test_entities_without_a_uid_are_none(told):
    told.learn(0, 100, pods=[pod("a", "10.1.0.1", uid="")], services=[{"name": "s", "addresses": [packed("10.2.0.1")]}])
    assert (len(told.directory), told.directory.refused) == (0, 2)
    assert told.directory.view().of_pod("") == 0  # that of a container outside of Kubernetes


def test_too_many_entities_and_claims_are_refused_and_counted(told, monkeypatch):
    monkeypatch.setattr(module, "MOST_HELD", 2)
    told.learn(0, 100, pods=pods("abc"))
    assert (len(told.directory), told.directory.refused) == (2, 1)
    monkeypatch.setattr(module, "MOST_CLAIMS", 3)
    told.learn(0, 100, pods=[pod("a", "10.1.0.1", "10.1.0.9", "10.1.0.10")])
    assert told.directory.refused == 2
    monkeypatch.setattr(module, "MOST_CLAIMS_OF_ENTITY", 1)
    told.learn(0, 100, pods=[pod("a", "10.1.0.1", "10.1.0.9")])
    assert told.directory.refused == 3
    assert told.name(told.directory.view().of_pod("uid-a")) == "a"


def test_of_a_services_addresses_as_many_are_taken_as_fit_with_all_ports(told):
    addresses = [packed(f"192.0.{i >> 8}.{i & 255}") for i in range(1000)]
    ports = [{"port": port, "protocol": 6, "node_port": port} for port in range(1, 1024)]
    service = intake_pb2.KubernetesService(uid="s", name="web", addresses=addresses, ports=ports)
    [entity] = told_entities(intake_pb2.Entities(services=[service]), ENVIRONMENT)
    assert len(entity.claims) == 3 * 1024 + 1023
    told.learn(0, 100, services=[service])
    where = {"timeline": "services", "port": port_number(6, 1023)}
    found = [told.at(address, 100, **where) for address in ("192.0.0.0", "192.0.0.2", "192.0.0.3", ANY_NODE)]
    assert found == [["web"], ["web"], [None], ["web"]]
    assert told.directory.refused == 997 * 1024


def test_an_entity_of_a_message_does_not_keep_the_message(told):
    told.learn(0, 100, pods=[pod("a", containers=[{"id": "c1", "name": "web", "image": "i:1", "kind": "init"}])])
    entity = told.directory.view().entities[told.directory.view().of_pod("uid-a")]
    assert entity.containers == (Container("c1", "web", "i:1", "init"),)
