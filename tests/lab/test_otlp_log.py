"""Without a reducer: a real OpenTelemetry Collector gets every field of every record right."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.otelcol import otelcol
from tests.lab.sockets import cookie
from tests.packages import ROOT

if TYPE_CHECKING:
    from tests.lab.daemons import Lab
    from tests.lab.network import Host
    from tests.lab.programs import Program

OTLP_HTTP_PORT = 4318
PORT = 7070
UDP_PORT = 7071
SENT, ANSWERED = 300_000, 70_001
_SEGMENTS = struct.Struct("136xII")  # tcpi_segs_out, tcpi_segs_in of struct tcp_info


@dataclass(frozen=True)
class Record:
    event: str
    attributes: dict[str, Any]
    resource: dict[str, Any]


def records(path: Path) -> list[Record]:
    """Return the log records in a file of the Collector's file exporter; numbers are told as text there (int64)."""
    found = []
    for line in path.read_text().splitlines():
        for logs in json.loads(line)["resourceLogs"]:
            resource = values(logs["resource"]["attributes"])
            for record in (record for scope in logs["scopeLogs"] for record in scope["logRecords"]):
                assert record["severityNumber"] == 9
                found.append(Record(record["eventName"], values(record.get("attributes", [])), resource))
    return found


def values(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {item["key"]: value(item["value"]) for item in attributes}


def value(typed: dict[str, Any]) -> Any:
    [(kind, content)] = typed.items()
    if kind == "arrayValue":
        return [value(each) for each in content["values"]]
    return int(content) if kind == "intValue" else content


def total(rows: list[Record], name: str) -> int:
    return sum(row.attributes.get(name, 0) for row in rows)


def of_socket(found: list[Record], event: str, end: socket.socket) -> list[Record]:
    """Return the records of one end; all of them say the same of who it is."""
    (address, port, *_), peer = end.getsockname(), end.getpeername()
    rows = [
        record
        for record in found
        if record.event == event
        and (record.attributes["network.local.address"], record.attributes["network.local.port"]) == (address, port)
    ]
    told = {
        "network.transport": "tcp" if end.type == socket.SOCK_STREAM else "udp",
        "network.type": "ipv6" if ":" in address else "ipv4",
        "network.peer.address": peer[0],
        "network.peer.port": peer[1],
        "process.pid": os.getpid(),
        "process.executable.name": Path("/proc/self/comm").read_text().strip(),
        "ebpf_net.socket.cookie": cookie(end),
    }
    assert rows
    for row in rows:
        assert {name: row.attributes.get(name) for name in told} == told
    return rows


def start_receiver(lab: Lab) -> tuple[Program, Path]:
    """Start an OpenTelemetry Collector with the configuration for development, which adds to a file as well."""
    path = lab.directory / "records.jsonl"
    addition = lab.directory / "to-file.yaml"
    addition.write_text(f"""
exporters: {{file: {{path: {path}, append: true}}}}
service: {{pipelines: {{logs: {{exporters: [debug, file]}}}}}}
""")
    configuration = ROOT / "dev" / "otel" / "otel-config.yaml"
    lab.stop_sink()  # it has the port
    command = (otelcol(), "--config", str(configuration), "--config", str(addition))
    receiver = lab.programs.start("otelcol", *command, host=lab.centre)
    receiver.wait_for("Everything is ready", timeout_s=60)
    return receiver, path


def start_collector(lab: Lab, watched: Host, *options: str) -> Program:
    """Start a collector that sends to it."""
    to_it = ("--intake-encoder", "otlp_log", "--intake-host", "127.0.0.1", "--intake-port", f"{OTLP_HTTP_PORT}")
    collector = lab.start_collector(lab.centre, watched, connected=False, options=(*to_it, *options))
    collector.wait_for("it takes records")
    return collector


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_every_field_of_tcp(lab: Lab, family: str) -> None:
    host = lab.host("node")
    receiver, path = start_receiver(lab)
    collector = start_collector(lab, host)
    address = getattr(host, family)
    with host.entered():
        listener = socket.create_server((address, PORT), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        client = socket.create_connection((address, PORT))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, PORT + 1))
    server, _ = listener.accept()
    with listener, client, server:
        for source, dest, size in ((client, server, SENT), (server, client, ANSWERED)):
            source.sendall(bytes(size))
            assert len(dest.recv(size, socket.MSG_WAITALL)) == size
        assert collector.stop(signal.SIGTERM) == 0
        assert receiver.stop(signal.SIGTERM) == 0
        found = records(path)
        for end, role, sent, received in ((client, "client", SENT, ANSWERED), (server, "server", ANSWERED, SENT)):
            rows = of_socket(found, "ebpf_net.tcp", end)
            assert {row.attributes["ebpf_net.role"] for row in rows} == {role}
            assert (total(rows, "ebpf_net.tcp.bytes_sent"), total(rows, "ebpf_net.tcp.bytes_received")) == (
                sent,
                received,
            )
            segments = (total(rows, f"ebpf_net.tcp.segments_{direction}") for direction in ("sent", "received"))
            assert tuple(segments) == _SEGMENTS.unpack(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144))
            assert total(rows, "ebpf_net.tcp.opened") == 1
            assert total(rows, "ebpf_net.tcp.srtt_count") > 0
            assert total(rows, "ebpf_net.tcp.min_rtt_us") > 0
            assert total(rows, "ebpf_net.tcp.connect_count") == (role == "client")
            assert {row.attributes.get("ebpf_net.network_namespace.inode") for row in rows} == {
                host.namespace.stat().st_ino
            }
    [refused] = [record for record in found if "error.type" in record.attributes]
    assert refused.attributes["error.type"] == "refused"
    assert refused.attributes["ebpf_net.tcp.failed"] == 1
    assert refused.attributes["network.peer.port"] == PORT + 1
    check_entities(found, host)


def check_entities(found: list[Record], host: Host) -> None:
    """Check what is told of the process, the host and the collector, and the resource of every record."""
    process = next(
        record
        for record in found
        if record.event == "ebpf_net.process" and record.attributes["process.pid"] == os.getpid()
    )
    command_line = Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()
    assert command_line.startswith(process.attributes["process.command_line"])
    assert len(process.attributes["process.command_line"]) > 0
    assert process.attributes["process.creation.time"].endswith("Z")
    [told] = [record for record in found if record.event == "ebpf_net.host"]
    assert set(told.attributes["host.ip"]) == {host.ipv4, host.ipv6}
    assert set(told.attributes["ebpf_net.host.interfaces"]) == {f"eth0={host.ipv4}", f"eth0={host.ipv6}"}
    assert told.attributes["ebpf_net.host.kernel_version"] == platform.release()
    assert told.attributes["os.name"] == platform.freedesktop_os_release()["ID"]
    statistics = [record.attributes for record in found if record.event == "ebpf_net.collector"]
    assert statistics[-1]["ebpf_net.collector.resident_bytes"] > 1 << 20
    assert statistics[-1]["ebpf_net.collector.cpu_time_ns"] > 0
    resources = [record.resource for record in found]
    assert all(resource == resources[0] for resource in resources)
    assert resources[0]["service.name"] == "kernel-collector"
    assert resources[0]["host.name"] == "centre"
    assert resources[0]["os.type"] == "linux"


def test_every_field_of_udp(lab: Lab) -> None:
    host = lab.host("node")
    receiver, path = start_receiver(lab)
    collector = start_collector(lab, host)
    with host.entered():
        client, server = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
    with client, server:
        server.bind((host.ipv4, UDP_PORT))
        client.connect((host.ipv4, UDP_PORT))
        server.connect(client.getsockname())
        for _ in range(50):
            client.send(bytes(700))
            assert len(server.recv(2000)) == 700
            server.send(bytes(20))
            assert len(client.recv(2000)) == 20
        assert collector.stop(signal.SIGTERM) == 0
        assert receiver.stop(signal.SIGTERM) == 0
        found = records(path)
        for end, sent, received in ((client, 35_000, 1_000), (server, 1_000, 35_000)):
            rows = of_socket(found, "ebpf_net.udp", end)
            measured = [
                total(rows, f"ebpf_net.udp.{name}")
                for name in ("bytes_sent", "bytes_received", "packets_sent", "packets_received", "drops")
            ]
            assert measured == [sent, received, 50, 50, 0]


def test_a_receiver_that_is_down_loses_nothing(lab: Lab) -> None:
    host = lab.host("node")
    receiver, path = start_receiver(lab)
    collector = start_collector(lab, host)
    with host.entered():
        listener = socket.create_server((host.ipv4, PORT))
    moved = 0
    with listener:
        for size in range(1_000, 1_030):
            if size == 1_010:
                assert receiver.stop(signal.SIGTERM) == 0
            if size == 1_020:
                collector.wait_for("takes no records now")
                receiver, _ = start_receiver(lab)
            with host.entered(), socket.create_connection((host.ipv4, PORT)) as client:
                server, _ = listener.accept()
                with server:
                    client.sendall(bytes(size))
                    moved += len(server.recv(size, socket.MSG_WAITALL))
        assert collector.stop(signal.SIGTERM) == 0
        assert receiver.stop(signal.SIGTERM) == 0
    rows = [record for record in records(path) if record.event == "ebpf_net.tcp"]
    sent = [row for row in rows if row.attributes.get("network.peer.port") == PORT]
    assert total(sent, "ebpf_net.tcp.bytes_sent") == moved
    assert total(sent, "ebpf_net.tcp.opened") == total(sent, "ebpf_net.tcp.closed") == 30
