from __future__ import annotations

import gzip
import ipaddress

import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from intake.columns import TABLES, empty_columns
from kernel_collector.otlp_log.attributes import latency_s
from kernel_collector.otlp_log.records import MOST_REQUEST_BYTES, LogRecords, _numbers
from tests.otlp_log_sink import records_of

NOW = 1_700_000_000_123_456_789
HOST = intake_pb2.Host(name="node", os="debian", os_version="12", zone="z", service="s", kernel_version="6.1")


def packed(text):
    address = ipaddress.ip_address(text)
    return (ipaddress.ip_address(f"::ffff:{text}") if address.version == 4 else address).packed


def rows(table, *given):
    columns = empty_columns(len(given), table)
    for i, row in enumerate(given):
        for name, value in row.items():
            columns[name][i] = np.void(packed(value)) if name.endswith("_address") else value
    return columns


def encode(tables, entities=None, statistics=None, records=None):
    records = records or LogRecords(HOST, b"\1" * 16)
    requests = list(records.encode(NOW, entities or intake_pb2.Entities(), tables, statistics))
    found = [record for request in requests for record in records_of(request.body)]
    assert sum(request.records for request in requests) == len(found)
    return found


def test_tcp_row():
    row = {
        "socket": 1 << 40,
        "process": 7,
        "network_namespace": 4_026_531_840,
        "local_address": "10.0.0.1",
        "remote_address": "2001:db8::1",
        "local_port": 443,
        "remote_port": 50_000,
        "role": intake_pb2.ROLE_ACCEPTOR,
        "baseline": 1,
        "bytes_sent": 1 << 45,
        "bytes_received": 127,
        "segments_sent": 128,
        "srtt_sum_us": 300,
        "failed": 2,
        "failure": intake_pb2.CONNECT_FAILURE_TIMED_OUT,
    }
    process = intake_pb2.Process(id=7, pid=321, name="nginx", command_line="nginx -g", service="web", parent_pid=1)
    process.start_time_unix_ns = NOW
    [told, record] = encode({"tcp": rows("tcp", row)}, intake_pb2.Entities(processes=[process]))
    assert (record.event, record.time_unix_ns) == ("ebpf_net.tcp", NOW)
    of_process = {
        "process.pid": 321,
        "process.executable.name": "nginx",
        "ebpf_net.process.id": 7,
        "ebpf_net.process.service": "web",
    }
    assert record.attributes == {
        **of_process,
        "network.transport": "tcp",
        "ebpf_net.socket.cookie": 1 << 40,
        "ebpf_net.network_namespace.inode": 4_026_531_840,
        "network.local.address": "10.0.0.1",
        "network.type": "ipv4",
        "network.peer.address": "2001:db8::1",
        "network.local.port": 443,
        "network.peer.port": 50_000,
        "ebpf_net.role": "server",
        "ebpf_net.tcp.baseline": True,
        "ebpf_net.tcp.bytes_sent": 1 << 45,
        "ebpf_net.tcp.bytes_received": 127,
        "ebpf_net.tcp.segments_sent": 128,
        "ebpf_net.tcp.srtt_sum_us": 300,
        "ebpf_net.tcp.failed": 2,
        "error.type": "timed_out",
    }
    assert told.event == "ebpf_net.process"
    assert told.attributes == {
        **of_process,
        "process.creation.time": "2023-11-14T22:13:20.123456789Z",
        "process.command_line": "nginx -g",
        "process.parent_pid": 1,
    }
    assert record.resource == {
        "service.name": "kernel-collector",
        "service.version": record.resource["service.version"],
        "service.instance.id": "01" * 16,
        "host.name": "node",
        "host.arch": record.resource["host.arch"],
        "os.type": "linux",
        "os.name": "debian",
        "os.version": "12",
        "cloud.availability_zone": "z",
    }


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_told(table):
    """A column that is not 0 adds to a record what it did not have."""
    for column in TABLES[table]:
        row = {"kind": intake_pb2.BIN_KIND_DNS_LATENCY} if table == "bins" and column.name != "kind" else {}
        plain = encode({table: rows(table, row)})
        row[column.name] = "10.0.0.1" if column.name.endswith("_address") else 6 if column.name == "transport" else 1
        entities = intake_pb2.Entities(processes=[intake_pb2.Process(id=1, pid=9)])
        entities.cgroups.append(intake_pb2.Cgroup(id=1, service="unit"))
        [*_, record] = encode({table: rows(table, row)}, entities)
        assert [record] != plain, column.name


@pytest.mark.parametrize(
    "values", [[0, 1], [127, 128, 0], [(1 << 14) - 1, 1 << 14], [(1 << 63) - 1, 1], [1 << 63, 5], [0, 0]]
)
def test_numbers(values):
    count = len(values)
    columns = empty_columns(count, "udp")
    columns["bytes_sent"][:] = values
    found = encode({"udp": columns})
    expected = [min(value, (1 << 63) - 1) for value in values]
    assert [record.attributes.get("ebpf_net.udp.bytes_sent", 0) for record in found] == expected


def test_widths_fit_the_column():
    assert _numbers("n", np.array([1, 300], "<u4"))[0].shape[1] == _numbers("n", np.array([1], "u1"))[0].shape[1] + 1


def test_udp_peers_that_are_not_told_apart():
    row = {"local_address": "::1", "remote_address": "::", "drops": 3}
    [record] = encode({"udp": rows("udp", row)})
    assert record.attributes == {
        "network.transport": "udp",
        "network.type": "ipv6",
        "network.local.address": "::1",
        "ebpf_net.udp.drops": 3,
    }


def test_dns_and_http():
    dns = {"transport": 17, "role": intake_pb2.ROLE_CONNECTOR, "queries": 3, "nxdomain": 2, "latency_sum_us": 9}
    http = {"role": intake_pb2.ROLE_ACCEPTOR, "requests": 4, "status_5xx": 1}
    found = {
        record.event: record.attributes for record in encode({"dns": rows("dns", dns), "http": rows("http", http)})
    }
    assert found["ebpf_net.dns"] == {
        "network.protocol.name": "dns",
        "network.transport": "udp",
        "ebpf_net.role": "client",
        "ebpf_net.dns.queries": 3,
        "ebpf_net.dns.nxdomain": 2,
        "ebpf_net.dns.latency_sum_us": 9,
    }
    assert found["ebpf_net.http"] == {
        "network.protocol.name": "http",
        "network.transport": "tcp",
        "ebpf_net.role": "server",
        "ebpf_net.http.requests": 4,
        "ebpf_net.http.status_5xx": 1,
    }


def test_bins_by_kind():
    status = {"kind": intake_pb2.BIN_KIND_HTTP_STATUS, "transport": 6, "bin": 404, "count": 5}
    of_http = {"kind": intake_pb2.BIN_KIND_HTTP_LATENCY, "transport": 6, "bin": 240, "count": 1}
    of_dns = {"kind": intake_pb2.BIN_KIND_DNS_LATENCY, "transport": 17, "bin": 160, "count": 2}
    found = {record.event: record.attributes for record in encode({"bins": rows("bins", status, of_http, of_dns)})}
    http = {"network.protocol.name": "http", "network.transport": "tcp"}
    assert found == {
        "ebpf_net.http.status": http | {"http.response.status_code": 404, "ebpf_net.count": 5},
        "ebpf_net.http.latency": http
        | {"ebpf_net.latency.from_s": 1.0, "ebpf_net.latency.to_s": 2 ** (1 / 8), "ebpf_net.count": 1},
        "ebpf_net.dns.latency": {"network.protocol.name": "dns", "network.transport": "udp", "ebpf_net.count": 2}
        | {"ebpf_net.latency.from_s": 2.0**-10, "ebpf_net.latency.to_s": latency_s(161)},
    }


def test_drops_by_the_names_of_their_reasons():
    row = {"local_address": "10.0.0.1", "remote_address": "10.0.0.2", "local_port": 1, "remote_port": 2}
    row |= {"transport": 6, "packets": 3, "bytes": 180}
    entities = intake_pb2.Entities(drop_reasons=[intake_pb2.DropReason(number=5, name="NO_SOCKET")])
    known, unknown = encode({"drops": rows("drops", row | {"reason": 5}, row | {"reason": 6})}, entities)
    assert known.attributes == {
        "source.address": "10.0.0.1",
        "destination.address": "10.0.0.2",
        "source.port": 1,
        "destination.port": 2,
        "network.type": "ipv4",
        "network.transport": "tcp",
        "ebpf_net.drops.reason": "NO_SOCKET",
        "ebpf_net.drops.packets": 3,
        "ebpf_net.drops.bytes": 180,
    }
    assert unknown.attributes["ebpf_net.drops.reason"] == "6"


def test_rows_tell_their_container():
    cgroup = intake_pb2.Cgroup(
        id=1 << 63,
        container_id="c" * 64,
        runtime="docker",
        container_name="web",
        image="registry:5000/nginx:1.27",
        pod_uid="a-b",
        kubernetes_pod="p",
        nomad_job="j",
    )
    expected = {
        "container.id": "c" * 64,
        "container.runtime.name": "docker",
        "container.name": "web",
        "container.image.name": "registry:5000/nginx",
        "container.image.tags": ["1.27"],
        "k8s.pod.uid": "a-b",
        "k8s.pod.name": "p",
        "ebpf_net.cgroup.nomad_job": "j",
    }
    records = LogRecords(HOST, b"")
    entities = intake_pb2.Entities(cgroups=[cgroup])
    entities.processes.append(intake_pb2.Process(id=1, pid=5, cgroup=1 << 63))
    own, by_process = {"cgroup": 1 << 63, "process": 0}, {"cgroup": 12, "process": 1}
    _, told, first, second, third = encode({"tcp": rows("tcp", own, by_process, {})}, entities, records=records)
    assert (told.event, told.attributes) == ("ebpf_net.cgroup", expected)
    assert {name: first.attributes.get(name) for name in expected} == expected
    assert second.attributes["container.id"] == "c" * 64
    assert second.attributes["process.pid"] == 5
    assert "container.id" not in third.attributes
    # What is retired is told by rows of the same batch, and forgotten after it.
    gone = intake_pb2.Entities(retired_cgroups=[1 << 63], retired_processes=[1])
    assert "container.id" in encode({"tcp": rows("tcp", own)}, gone, records=records)[0].attributes
    assert "container.id" not in encode({"tcp": rows("tcp", own)}, records=records)[0].attributes


@pytest.mark.parametrize(
    ("image", "name", "tags"),
    [
        ("nginx", "nginx", None),
        ("nginx:1", "nginx", ["1"]),
        ("host:5000/nginx", "host:5000/nginx", None),
        ("nginx@sha256:" + "a" * 64, "nginx@sha256:" + "a" * 64, None),
        ("sha256:" + "a" * 64, "sha256:" + "a" * 64, None),
    ],
)
def test_images(image, name, tags):
    [record] = encode({}, intake_pb2.Entities(cgroups=[intake_pb2.Cgroup(id=1, image=image)]))
    assert record.attributes["container.image.name"] == name
    assert record.attributes.get("container.image.tags") == tags


def test_host_names_and_statistics():
    host = intake_pb2.Host(name="node", addresses=[packed("10.0.0.1"), packed("2001:db8::1")], service="s")
    host.interfaces.add(name="eth0", addresses=[packed("10.0.0.1"), packed("2001:db8::1")])
    host.cloud.provider, host.cloud.instance_id, host.cloud.account = "aws", "i-1", "42"
    host.cloud.addresses.add(public=packed("203.0.113.1"), private=packed("10.0.0.1"))
    name = intake_pb2.DnsName(name="example.com", addresses=[packed("192.0.2.1")], ttl=60)
    statistics = intake_pb2.CollectorStatistics(events_lost=3, cpu_time_ns=1 << 40)
    found = encode({}, intake_pb2.Entities(host=host, dns_names=[name]), statistics, LogRecords(host, b""))
    assert {record.event: record.attributes for record in found} == {
        "ebpf_net.host": {
            "host.name": "node",
            "host.ip": ["10.0.0.1", "2001:db8::1"],
            "ebpf_net.host.service": "s",
            "ebpf_net.host.interfaces": ["eth0=10.0.0.1", "eth0=2001:db8::1"],
            "cloud.provider": "aws",
            "host.id": "i-1",
            "cloud.account.id": "42",
            "ebpf_net.cloud.addresses": ["203.0.113.1=10.0.0.1"],
        },
        "ebpf_net.dns.name": {
            "dns.question.name": "example.com",
            "dns.answers": ["192.0.2.1"],
            "ebpf_net.dns_name.ttl": 60,
        },
        "ebpf_net.collector": {"ebpf_net.collector.events_lost": 3, "ebpf_net.collector.cpu_time_ns": 1 << 40},
    }
    assert found[0].resource["host.id"] == "i-1"


def test_requests_are_bounded_and_lose_nothing():
    count = 5_000
    columns = empty_columns(count, "tcp")
    columns["socket"][:] = np.arange(1, count + 1)
    columns["bytes_sent"][:] = 1 << 40
    process = intake_pb2.Process(id=1, pid=1, name="x" * 200)
    columns["process"][:] = 1
    records = LogRecords(HOST, b"")
    requests = list(records.encode(NOW, intake_pb2.Entities(processes=[process]), {"tcp": columns}, None))
    assert len(requests) > 1
    sizes = [len(gzip.decompress(request.body)) for request in requests]
    assert max(sizes) < MOST_REQUEST_BYTES + 1_000  # the resource comes besides
    assert min(sizes[:-1]) > MOST_REQUEST_BYTES - 1_000  # a record more would not have found room
    sockets = []
    for request in requests:
        found = [record for record in records_of(request.body) if record.event == "ebpf_net.tcp"]
        assert request.rows == len(found)
        assert request.payload_bytes == len(found) << 40
        sockets += [record.attributes["ebpf_net.socket.cookie"] for record in found]
    assert sockets == list(range(1, count + 1))


def test_no_request_for_nothing():
    assert encode({}) == []
    assert encode({"tcp": empty_columns(0)}) == []
    assert MOST_REQUEST_BYTES < 4 << 20
