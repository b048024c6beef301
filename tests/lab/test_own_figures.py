"""What a collector tells of itself: its agreement with the kernel, and the load that it is."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.daemons import INTERNAL_PORT
from tests.lab.waiting import wait_until
from tests.otlp_log_sink import log_sink

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.lab.daemons import Lab
    from tests.lab.network import Host
    from tests.lab.programs import Program
    from tests.otlp_log_sink import LogSink

PORT = 7070
BLOCK = 100_000


@contextmanager
def watched(lab: Lab, host: Host, *options: str, within: Sequence[str] = ()) -> Iterator[tuple[LogSink, Program]]:
    with ExitStack() as stack:
        with lab.centre.entered():
            sink = stack.enter_context(log_sink())
        to_it = ("--intake-encoder", "otlp_log", "--intake-host", "127.0.0.1", "--intake-port", f"{sink.port}")
        collector = lab.start_collector(lab.centre, host, connected=False, options=(*to_it, *options), within=within)
        collector.wait_for("it takes records")
        yield sink, collector


@contextmanager
def connections(host: Host, count: int) -> Iterator[None]:
    """Have connections that move a block in each direction, and stay open until the end."""
    with ExitStack() as stack, host.entered():
        listener = stack.enter_context(socket.create_server((host.ipv4, PORT), backlog=count))
        for _ in range(count):
            client = stack.enter_context(socket.create_connection((host.ipv4, PORT)))
            server = stack.enter_context(listener.accept()[0])
            for source, dest in ((client, server), (server, client)):
                source.sendall(bytes(BLOCK))
                assert len(dest.recv(BLOCK, socket.MSG_WAITALL)) == BLOCK
        yield


def datagrams(host: Host, count: int) -> None:
    with host.entered():
        receiver, sender = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
    with receiver, sender:
        receiver.bind((host.ipv4, PORT))
        sender.connect((host.ipv4, PORT))
        for _ in range(count):
            sender.send(b"x" * 500)
            receiver.recv(1_000)


def ratios(sink: LogSink) -> dict[str, float]:
    last = {
        each.attributes["ebpf_net.agreement.measure"]: each.attributes
        for each in sink.of("ebpf_net.collector.agreement")
    }
    return {
        measure: told.get("ebpf_net.agreement.counted", 0) / kernel
        for measure, told in last.items()
        if (kernel := told.get("ebpf_net.agreement.counted_by_kernel", 0)) > 20
    }


def test_it_agrees_with_the_kernel_where_it_sees_all(lab: Lab) -> None:
    host = lab.host("node")
    with watched(lab, host) as (sink, collector):
        with connections(host, 20):
            datagrams(host, 100)
            assert collector.stop(signal.SIGTERM) == 0
        found = ratios(sink)
    assert 0.97 < found["tcp.segments_sent"] <= 1.0
    assert 0.97 < found["udp.packets_sent"] <= 1.0
    assert 0.97 < found["udp.packets_received"] <= 1.0
    assert 0.9 < found["ip.bytes_sent"] < 1.0, "without headers"
    assert 0.9 < found["ip.bytes_received"] < 1.0


def test_it_disagrees_where_sockets_are_hidden(lab: Lab) -> None:
    """In a pid namespace of its own the collector sees no other's descriptors."""
    host = lab.host("node")
    with watched(lab, host, within=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")) as (sink, collector):
        with connections(host, 20):
            [child] = Path(f"/proc/{collector.pid}/task/{collector.pid}/children").read_text().split()
            os.kill(int(child), signal.SIGTERM)  # unshare itself lets signals pass by
            assert collector.wait(20) == 0
        assert ratios(sink)["tcp.segments_sent"] < 0.2
        assert "have no names, and their sockets are told only when they close; start the container with" in (
            collector.output()
        )


def test_rings_maps_and_programs(lab: Lab) -> None:
    host = lab.host("node")
    with watched(lab, host, "--enable-bpf-stats") as (sink, collector):
        datagrams(host, 50)
        with connections(host, 5):
            pass
        assert collector.stop(signal.SIGTERM) == 0
        rings = {each.attributes["ebpf_net.ring.name"]: each.attributes for each in sink.of("ebpf_net.collector.ring")}
        assert rings.keys() >= {"tcp", "process", "cgroup"}
        assert rings["tcp"]["ebpf_net.ring.size_bytes"] >= 1 << 20
        fullest = [
            each.attributes.get("ebpf_net.ring.fullest_bytes", 0)
            for each in sink.of("ebpf_net.collector.ring", ebpf_net__ring__name="tcp")
        ]
        assert max(fullest) > 0
        programs = {
            each.attributes["ebpf_net.program.name"]: each.attributes for each in sink.of("ebpf_net.collector.program")
        }
        state_changes = programs["tcp_state_changed"]
        assert state_changes["ebpf_net.program.runs"] >= 20
        assert state_changes["ebpf_net.program.run_time_ns"] > state_changes["ebpf_net.program.runs"] * 20
        maps = {each.attributes["ebpf_net.map.name"]: each.attributes for each in sink.of("ebpf_net.collector.map")}
        assert maps["tcp_network_namespaces"]["ebpf_net.map.entries"] == 1
        assert all(each["ebpf_net.map.most_entries"] >= each.get("ebpf_net.map.entries", 0) for each in maps.values())


def test_the_reducer_exports_them(lab: Lab) -> None:
    host = lab.host("node")
    lab.start_reducer()
    lab.start_collector(host, options=("--enable-bpf-stats",))

    def told() -> str:
        return lab.centre.get(f"http://127.0.0.1:{INTERNAL_PORT}/metrics")

    wait_until(lambda: _value(told(), "program_runs", 'program="tcp_state_changed"') > 0, 60, "runs of programs")
    assert _value(told(), "ring_size_bytes", 'ring="tcp"') >= 1 << 20
    wait_until(lambda: _value(told(), "wire_bytes_sent") > 0, 60, "bytes on the wire")


def _value(page: str, name: str, label: str = "") -> float:
    """Return the value of a metric of the collector on `node`."""
    lines = [line for line in page.splitlines() if line.startswith(f"ebpf_net_collector_{name}")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if 'host="node"' in line and label in line)
