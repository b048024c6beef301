import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from intake import limits
from intake.columns import empty_columns
from intake.limits import MalformedMessageError, checked_rows, cut, fitting
from tests.rows import packed_rows


def batch_with(number=1, **columns):
    rows = empty_columns(2)
    rows["socket"][:] = 1
    for name, values in columns.items():
        rows[name] = np.asarray(values, rows[name].dtype)
    return intake_pb2.Batch(number=number, tcp=packed_rows("tcp", rows))


def batch_of(rows, **values):
    columns = empty_columns(rows)
    for name, value in values.items():
        columns[name][:] = value
    return intake_pb2.Batch(number=1, tcp=packed_rows("tcp", columns))


def test_rows_within_the_limits_are_taken():
    tables = checked_rows(batch_with(role=[2, 0], failure=[7, 0], bytes_sent=[2**48, 0]))
    assert tables.keys() == {"tcp"}
    assert tables["tcp"]["bytes_sent"].tolist() == [2**48, 0]


def test_the_rows_of_all_tables_are_limited_together():
    tcp, udp = intake_pb2.TcpSockets(rows=40_000), intake_pb2.UdpSockets(rows=20_000)
    assert checked_rows(intake_pb2.Batch(number=1, tcp=tcp, udp=udp)).keys() == {"tcp", "udp"}
    udp.rows = 30_000
    with pytest.raises(MalformedMessageError, match="70000 rows"):
        checked_rows(intake_pb2.Batch(number=1, tcp=tcp, udp=udp))


def test_a_batch_without_rows_is_taken():
    assert checked_rows(intake_pb2.Batch(number=1)) == {}
    assert checked_rows(intake_pb2.Batch(number=1, tcp=intake_pb2.TcpSockets())) == {}


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        (batch_with(number=0), "number 0"),
        (batch_with(number=2**63), "number"),
        (batch_with(role=[0, 3]), "column role holds 3"),
        (batch_with(failure=[8, 0]), "column failure holds 8"),
        (batch_with(baseline=[2, 0]), "column baseline holds 2"),
        (batch_with(bytes_sent=[2**48 + 1, 0]), "column bytes_sent"),
        (batch_of(1 << 16, bytes_sent=2**48), "column bytes_sent adds up to 1.845e"),
        (batch_with(connect_sum_us=[2**63, 0]), "column connect_sum_us"),
        (intake_pb2.Batch(number=1, tcp=intake_pb2.TcpSockets(rows=65_537)), "65537 rows"),
        (intake_pb2.Batch(number=1, tcp=intake_pb2.TcpSockets(rows=3, socket=b"1")), "column socket"),
        (intake_pb2.Batch(number=1, udp=intake_pb2.UdpSockets(rows=3, drops=b"1")), "column drops"),
        (
            intake_pb2.Batch(number=1, udp=intake_pb2.UdpSockets(rows=1, packets_sent=b"\xff" * 8)),
            "column packets_sent holds",
        ),
        (intake_pb2.Batch(number=1, entities=intake_pb2.Entities(retired_processes=[1] * 65_537)), "65537 retired"),
        (intake_pb2.Batch(number=1, entities=intake_pb2.Entities(cgroups=[{}] * 16_385)), "16385 cgroups"),
        (intake_pb2.Batch(number=1, entities=intake_pb2.Entities(pods=[{}] * 65_537)), "65537 pods"),
        (intake_pb2.Batch(number=1, entities=intake_pb2.Entities(retired_pods=["a"] * 65_537)), "65537 retired pods"),
        (intake_pb2.Batch(number=1, entities=intake_pb2.Entities(dns_names=[{}] * 65_537)), "65537 dns names"),
        (
            intake_pb2.Batch(number=1, entities=intake_pb2.Entities(cloud_interfaces=[{}] * 65_537)),
            "65537 cloud interfaces",
        ),
    ],
)
def test_what_is_not_within_the_limits_is_told(batch, told):
    with pytest.raises(MalformedMessageError, match=told):
        checked_rows(batch)


def test_long_strings_are_cut():
    entities = intake_pb2.Entities(processes=[intake_pb2.Process(name="n" * 300, command_line="c" * 2_000)])
    assert cut(entities) == 2
    assert (len(entities.processes[0].name), len(entities.processes[0].command_line)) == (256, 1_024)
    assert cut(entities) == 0


def test_long_labels_are_cut_and_odd_addresses_left_out():
    host = intake_pb2.Host(name="h" * 300, zone="z", addresses=[bytes(16), bytes(4)])
    assert cut(host) == 2
    assert (len(host.name), host.zone, list(host.addresses)) == (256, "z", [bytes(16)])


def test_command_lines_are_left_out_where_no_message_could_hold_them():
    process = intake_pb2.Process(id=1, name="name", command_line="c" * 256)
    few = intake_pb2.Entities(processes=[process])
    assert fitting(few) is few
    many = intake_pb2.Entities(processes=[process] * 20_000)
    fitted = fitting(many)
    assert fitted.ByteSize() < limits.MOST_ENTITY_BYTES
    assert (fitted.processes[0].name, fitted.processes[0].command_line) == ("name", "")
    assert many.processes[0].command_line


def test_more_cgroups_than_a_collector_can_have_are_refused():
    many = intake_pb2.Entities(retired_cgroups=range(limits.MOST_CGROUPS + 1))
    with pytest.raises(MalformedMessageError, match="retired cgroups"):
        checked_rows(intake_pb2.Batch(number=1, entities=many))


def test_long_strings_of_cgroups_and_services_are_cut():
    entities = intake_pb2.Entities()
    entities.cgroups.add(id=1, service="s" * 1000, image="i" * 1000, nomad_task="short")
    entities.processes.add(id=1, service="s" * 1000)
    assert cut(entities) == 3
    assert len(entities.cgroups[0].image) == len(entities.processes[0].service) == limits.LONGEST_LABEL


def test_cgroups_that_do_not_fit_keep_what_they_are():
    entities = intake_pb2.Entities()
    for number in range(16_000):
        entities.cgroups.add(
            id=number + 1, container_id="c" * 64, image="i" * 128, kubernetes_pod="p" * 128, service="s"
        )
    short = fitting(entities)
    assert short.ByteSize() < limits.MOST_ENTITY_BYTES < entities.ByteSize()
    assert short.cgroups[9] == intake_pb2.Cgroup(id=10, container_id="c" * 64, service="s")


def test_of_names_that_do_not_fit_the_last_ones_are_kept(monkeypatch):
    monkeypatch.setattr(limits, "MOST_ENTITY_BYTES", 256 << 10)
    entities = intake_pb2.Entities(processes=[intake_pb2.Process(id=1, name="name", command_line="c" * 256)])
    for number in range(4_000):
        entities.dns_names.add(name=f"{number:05}.{'n' * 60}", addresses=[bytes(16)], ttl=60)
    short = fitting(entities)
    assert 0.97 * limits.MOST_ENTITY_BYTES < short.ByteSize() <= limits.MOST_ENTITY_BYTES
    assert short.processes[0].name == "name"
    assert short.dns_names[-1] == entities.dns_names[-1]
    assert short.dns_names[0] == entities.dns_names[-len(short.dns_names)]


def test_a_host_in_a_batch_is_cut_as_well():
    entities = intake_pb2.Entities()
    entities.host.name = "n" * 1000
    entities.host.cloud.zone = "z" * 1000
    entities.host.cloud.addresses.add(public=b"1" * 16, private=b"2" * 16)
    entities.host.cloud.addresses.add(public=b"1" * 16, private=b"2")
    assert cut(entities) == 3
    assert len(entities.host.name) == len(entities.host.cloud.zone) == limits.LONGEST_LABEL
    assert [pair.private for pair in entities.host.cloud.addresses] == [b"2" * 16]
    assert cut(entities) == 0


ADDRESS = bytes(15) + b"1"


def test_entities_of_all_kinds_are_cut():
    long = "n" * 300
    entities = intake_pb2.Entities(
        pods=[
            {
                "uid": "u",
                "owner_name": long,
                "addresses": [ADDRESS, b"", ADDRESS + b"1"],
                "start_time_unix_ns": 2**64 - 1,
                "containers": [{"id": "c", "image": long}],
                "labels": {"a": "b", "c": long, long: "d"},
            }
        ],
        services=[{"uid": "s", "addresses": [b"1"], "ports": [{"port": 80, "name": long}] * 1_030}],
        nodes=[{"uid": "n", "zone": long}],
        cloud_interfaces=[
            {
                "id": "i",
                "description": long,
                "addresses": [b"1"],
                "public_addresses": [{"public": ADDRESS, "private": ADDRESS}, {"public": ADDRESS}],
                "dns_names": ["a", long],
            }
        ],
        retired_pods=["u", long],
    )
    assert cut(entities) == 1 + 2 + 1 + 1 + 2 + (1 + 6 + 1_024) + 1 + (1 + 1 + 1 + 1) + 1
    (pod,), (service,), (interface,) = entities.pods, entities.services, entities.cloud_interfaces
    assert (len(pod.owner_name), len(pod.containers[0].image), dict(pod.labels)) == (256, 256, {"a": "b"})
    assert list(pod.addresses) == [ADDRESS]
    assert pod.start_time_unix_ns == 1 << 62
    assert (len(service.addresses), len(service.ports), len(service.ports[9].name)) == (0, 1_024, 256)
    assert len(entities.nodes[0].zone) == 256
    assert (list(interface.dns_names), len(interface.public_addresses), len(interface.addresses)) == (["a"], 1, 0)
    assert list(entities.retired_pods) == ["u"]
    assert cut(entities) == 0


def test_names_of_the_dns_lose_their_beginning():
    name = "a" * 100 + "b" * 244 + ".example.com"
    entities = intake_pb2.Entities(dns_names=[{"name": name, "addresses": [ADDRESS, b"1"]}])
    assert cut(entities) == 2
    assert entities.dns_names[0].name == "b" * 244 + ".example.com"
    assert list(entities.dns_names[0].addresses) == [ADDRESS]


def test_statistics_are_cut():
    statistics = intake_pb2.CollectorStatistics()
    for number in range(70):
        statistics.programs.add(name=f"{number}" * 300)
    assert cut(statistics) == 6 + 64
    assert {len(each.name) for each in statistics.programs} == {256}
    statistics.programs[0].runs = statistics.events_lost = 2**64 - 1  # which OTLP has no number for
    assert cut(statistics) == 2
    assert statistics.programs[0].runs == statistics.events_lost == 2**62
    assert cut(statistics) == 0
