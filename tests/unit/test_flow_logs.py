from __future__ import annotations

import json
import re

import numpy as np
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from daemon.version import VERSION
from reducer.columns.cells import CellKind
from reducer.columns.series import EndTable
from reducer.outputs.flow_logs import FlowLogEncoder
from reducer.outputs.metrics import METRICS
from reducer.outputs.request import Signal
from tests.windows import START_NS, WINDOW_NS, sealed_window

WEB = {"workload.name": "web", "ip": "10.0.0.1", "id": "a", "availability_zone": "z"}
DATABASE = {"workload.name": "db", "ip": "10.0.0.2", "id": "b", "availability_zone": "z"}
RESOLVER = {"workload.name": "(unknown)"}
TCP = {
    "bytes": 1_000_000,
    "packets": 900,
    "retransmits": 3,
    "srtt_sum_us": 5_000,
    "srtt_count": 4,
    "active": 2,
    "opened": 1,
    "syn_timeouts": 5,
    "resets": 6,
}


def records(requests):
    found = []
    for request in requests:
        message = ExportLogsServiceRequest.FromString(request.body)
        assert request.signal is Signal.LOGS
        (resource,) = message.resource_logs
        (scope,) = resource.scope_logs
        assert len(scope.log_records) == request.points
        found += scope.log_records
    return found


def attributes(record):
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in record.attributes}


def encode(*rows, encoder=None, ends=None, number=0):
    window = sealed_window(ends or EndTable(), {"az_az": [(WEB, WEB, TCP)], "flows": rows}, number)
    return (encoder or FlowLogEncoder()).encode(window)


def test_a_record_has_the_references_body_and_the_windows_end():
    (record,) = records(encode((WEB, DATABASE, TCP), number=2))
    assert record.time_unix_nano == record.observed_time_unix_nano == START_NS + 3 * WINDOW_NS
    assert (record.severity_number, record.severity_text) == (9, "INFO")
    assert record.body.string_value == "10.0.0.1 web 10.0.0.2 db 1000000 4 2 0.00125 900 3 5 1 6"


def test_a_name_that_is_not_one_field_of_the_body_is_quoted():
    names = ["Web Server (eu)", 'say "hi"', '"', "a\nb", "-", "a\u00a0b", "wörk\\load", "(unknown)"]
    rows = [({"workload.name": name, "ip": "10.0.0.1"}, DATABASE, TCP) for name in names]
    bodies = [record.body.string_value for record in records(encode(*rows))]
    field = re.compile(r'"(?:[^"\\]|\\.)*"|[^ ]+')
    found = [field.findall(body) for body in bodies]
    assert [len(fields) for fields in found] == [13] * len(names)
    assert [fields[3] for fields in found] == ["db"] * len(names)
    told = [json.loads(fields[1]) if fields[1].startswith('"') else fields[1] for fields in found]
    assert sorted(told) == sorted(names)
    assert {"wörk\\load", "(unknown)"} <= {fields[1] for fields in found}


def test_resource_and_scope_are_those_of_the_metrics():
    (request,) = encode((WEB, DATABASE, TCP))
    (of_resource,) = ExportLogsServiceRequest.FromString(request.body).resource_logs
    resource = {item.key: item.value.string_value for item in of_resource.resource.attributes}
    assert resource == {"service.name": "ebpf-net-reducer", "service.version": VERSION}
    assert of_resource.scope_logs[0].scope.name == "ebpf-net"


def test_attributes_are_labels_and_typed_metrics():
    (record,) = records(encode((WEB, DATABASE, TCP)))
    found = attributes(record)
    assert found["source.workload.name"] == "web"
    assert found["dest.ip"] == "10.0.0.2"
    assert found["az_equal"] == "true"
    assert (found["tcp.bytes"], found["tcp.new_sockets"]) == (1_000_000, 1)
    assert isinstance(found["tcp.bytes"], int)
    assert found["tcp.rtt.average"] == 0.00125
    assert not [name for name in found if name.startswith(("udp.", "tcp.failed", "tcp.connect"))]


def test_ports_latencies_and_drops_are_attributes():
    sent = TCP | {"protocol": 6, "source_port": 40_000, "dest_port": 443, (CellKind.TCP_RTT, 160): 9}
    answered = {"protocol": 17, "source_port": 53, (CellKind.DROPPED_PACKETS, 1): 5, (CellKind.DROPPED_BYTES, 1): 300}
    rows = [(WEB, DATABASE, sent), (DATABASE, WEB, answered), (WEB, RESOLVER, {"bytes": 1})]
    window = sealed_window(EndTable(), {"flows": rows}, drop_reasons=["NO_SOCKET", "TCP_RESET"])
    found = {each.get("protocol"): each for each in map(attributes, records(FlowLogEncoder().encode(window)))}
    one, other, third = found["tcp"], found["udp"], found[None]
    assert (one["protocol"], one["source.port"], one["dest.port"]) == ("tcp", 40_000, 443)
    assert one["tcp.rtt.p50"] == one["tcp.rtt.max"] == 0.00102
    assert {name: other[name] for name in other if name.startswith(("drops", "protocol")) or "port" in name} == {
        "protocol": "udp",
        "source.port": 53,
        "drops.packets": 5,
        "drops.bytes": 300,
        "drops.reason": "TCP_RESET",
    }
    assert not [name for name in third if name.startswith(("drops", "tcp.rtt")) or "port" in name]


def test_each_record_has_the_metrics_that_it_has():
    rows = [
        (WEB, DATABASE, {"failed_refused": 7, "active": 1}),
        (WEB, RESOLVER, {"udp_bytes": 5, "udp_packets": 1}),
        (DATABASE, WEB, TCP),
        (RESOLVER, WEB, {"udp_bytes": (1 << 62) - 1, "udp_packets": 1 << 40}),
    ]
    failed, asked, sent, answered = records(encode(*rows))
    assert attributes(failed)["tcp.failed_connects.refused"] == 7
    assert (attributes(asked)["udp.bytes"], attributes(asked)["udp.packets"]) == (5, 1)
    assert "tcp.bytes" not in attributes(asked)
    assert asked.body.string_value.startswith("10.0.0.1 web - (unknown) 0 0 0 0.0 0")
    assert (attributes(sent)["tcp.bytes"], "udp.bytes" in attributes(sent)) == (1_000_000, False)
    assert (attributes(answered)["udp.bytes"], attributes(answered)["udp.packets"]) == ((1 << 62) - 1, 1 << 40)


def test_values_are_those_of_the_metrics():
    rng = np.random.default_rng(3)
    names = (
        "bytes",
        "packets",
        "active",
        "opened",
        "srtt_sum_us",
        "srtt_count",
        "udp_bytes",
        "udp_packets",
        "udp_drops",
    )
    rows = [
        (
            WEB,
            DATABASE | {"id": f"{index}"},
            {name: int(rng.integers(0, 3) * rng.integers(0, 1 << 30)) for name in names},
        )
        for index in range(300)
    ]
    ends = EndTable()
    window = sealed_window(ends, {"flows": rows})
    told = {attributes(record)["dest.id"]: attributes(record) for record in records(FlowLogEncoder().encode(window))}
    (level,) = window.levels
    for metric in METRICS:
        for points in metric.points:
            name = ".".join((metric.name, *(value for _, value in points.attributes)))
            exists, values = points.exists(level.values), points.value(level.values)
            for row in range(300):
                found = told[dict(ends.labels[level.dest[row]])["id"]].get(name)
                assert found == (values[row] if exists[row] else None)


def test_requests_are_bounded_by_size_and_by_records():
    rows = [(WEB, DATABASE | {"id": f"{index}"}, TCP) for index in range(100)]
    whole = encode(*rows)
    assert len(whole) == 1
    by_size = encode(*rows, encoder=FlowLogEncoder(most_bytes=10_000))
    assert all(len(request.body) <= 10_000 for request in by_size)
    by_records = encode(*rows, encoder=FlowLogEncoder(most_records=30))
    assert [request.points for request in by_records] == [30, 30, 30, 10]
    for requests in (by_size, by_records):
        assert list(map(str, records(requests))) == list(map(str, records(whole)))


def test_no_flows_are_no_request():
    assert encode() == []


def test_windows_one_after_the_other_and_a_table_that_is_cleared():
    ends, encoder = EndTable(), FlowLogEncoder()
    assert "web" in records(encode((WEB, DATABASE, TCP), ends=ends, encoder=encoder))[0].body.string_value
    ends.clear()
    (record,) = records(encode((DATABASE, WEB, TCP), ends=ends, encoder=encoder))
    assert record.body.string_value.startswith("10.0.0.2 db 10.0.0.1 web")
    assert attributes(record)["source.workload.name"] == "db"
