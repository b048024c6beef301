"""A recorded collector, played again, gives the series that it gave."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.lab.daemons import POLL_INTERVAL_S, WINDOW_S, script
from tests.lab.dnsmasq import Client, dnsmasq
from tests.lab.traffic import Nginx, Wrk
from tests.lab.transfer import Transfer
from tests.lab.waiting import wait_until
from tests.otlp_sink import points_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.lab.daemons import Lab
    from tests.lab.network import Host
    from tests.otlp_sink import Point


SIZE = 50 << 20
SERVICE, PORT = "10.96.0.1", 7000
SETTINGS = ("--window", f"{WINDOW_S}", "--poll-interval", f"{POLL_INTERVAL_S}", "--enable-id-id")
Series = dict[tuple[Any, ...], float]


def played(*recordings: Path) -> str:
    done = subprocess.run(
        [script("ebpf-net"), "replay", *map(str, recordings), *SETTINGS],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def series(points: Iterable[Point]) -> Series:
    """Return the values by metric, start and attributes; the last window's end is not that of the live run."""
    found: Series = {}
    for point in points:
        key = (point.metric, point.start_ns, *sorted(point.attributes.items()))
        assert found.setdefault(key, point.value) == point.value
    return found


def points(lines: str) -> list[Point]:
    """Return the points of lines of OTLP's JSON, none of which comes twice."""
    found = [
        point
        for line in lines.splitlines()
        for point in points_of(json_format.Parse(line, ExportMetricsServiceRequest()))
    ]
    assert len(series(found)) == len(found)
    return found


def of_flows(lab: Lab) -> list[Point]:
    """Return what was exported live, without what the reducer says of itself."""
    return [point for point in lab.sink.points() if not point.metric.startswith("ebpf_net.")]


def test_one_collector(lab: Lab, tmp_path: Path) -> None:
    recording = tmp_path / "recording"
    transfer = Transfer(lab)
    transfer.reducer = lab.start_reducer_with_sink()
    options = ("--record", str(recording))
    transfer.collectors = [lab.start_collector(lab.centre, transfer.client, transfer.server, options=options)]
    transfer.begin(SIZE, "100M")
    transfer.check(transfer.finish())
    lines = played(recording)
    assert played(recording) == lines
    replayed, live = series(points(lines)), series(of_flows(lab))
    assert len({start for _, start, *_ in live}) > 1, "several windows"
    assert replayed == live


def exchange_everything(lab: Lab, client: Host, server: Host) -> None:
    """Exchange what each concern counts, at an address that the client's kernel translates."""
    rule = f"ip daddr {SERVICE} dnat to {server.ipv4}"
    nat = f"table ip services {{\nchain output {{ type nat hook output priority -100;\n{rule}\n}}\n}}\n"
    client.run("nft", "-f", "-", input=nat)
    client.run("ip", "route", "add", f"{SERVICE}/32", "via", server.ipv4)
    nginx = Nginx(lab.programs, server, lab.directory / "nginx")
    dnsmasq(lab, server, "--local=/test/", "--host-record=a.test,192.0.2.1")
    Wrk(lab.programs, nginx, client, requests=400, connections=4, paths=("/", "/404")).finish()
    asking = Client(client, SERVICE)
    with server.entered():
        listener, receiver = socket.create_server((server.ipv4, PORT)), socket.socket(type=socket.SOCK_DGRAM)
    with listener, receiver:
        receiver.bind((server.ipv4, PORT))
        receiver.settimeout(10)
        for _ in range(3):  # polls, and windows
            asking.ask("a.test", times=3)
            asking.ask("missing.test", tcp=True)
            with client.entered():
                connection, datagrams = socket.create_connection((SERVICE, PORT)), socket.socket(type=socket.SOCK_DGRAM)
            with connection, datagrams:
                accepted, _ = listener.accept()
                with accepted:
                    connection.sendall(b"x" * 5_000)
                    accepted.sendall(b"y" * 3_000)
                    for place in (SERVICE, server.ipv4):
                        datagrams.sendto(b"z" * 700, (place, PORT))
                        receiver.recv(1_000)
                    datagrams.sendto(b"z", (server.ipv4, PORT + 1))  # nobody listens: it is dropped
                    time.sleep(WINDOW_S / 2)


def test_whatever_is_watched_is_played_again(lab: Lab, tmp_path: Path) -> None:
    recording = tmp_path / "recording"
    client, server = lab.host("client"), lab.host("server")
    reducer = lab.start_reducer_with_sink()
    options = ("--record", str(recording))
    collector = lab.start_collector(lab.centre, client, server, options=options)
    exchange_everything(lab, client, server)
    lab.finish(reducer, collector)
    lines = played(recording)
    assert played(recording) == lines
    replayed, live = series(points(lines)), series(of_flows(lab))
    told = {metric for metric, *_ in live}
    wanted = {"tcp.bytes", "udp.bytes", "dns.queries", "dns.rcodes", "http.requests", "http.status_code", "udp.packets"}
    assert wanted <= told
    assert any("drop" in metric for metric in told), told
    names = {value for _, _, *attributes in live for name, value in attributes if name == "dest.ip"}
    assert SERVICE not in names, "it is translated"
    assert {key: (replayed.get(key), live.get(key)) for key in replayed.keys() ^ live.keys()} == {}
    assert replayed == live


def test_two_collectors_together(lab: Lab, tmp_path: Path) -> None:
    """Each byte counts once, as it did then.

    Of segments the ends tell different numbers, and which of them counts depends on who came when.
    """
    recordings = [tmp_path / name for name in ("client", "server")]
    transfer = Transfer(lab)
    transfer.reducer = lab.start_reducer_with_sink()
    transfer.collectors = [
        lab.start_collector(host, options=("--record", str(recording)))
        for host, recording in zip((transfer.client, transfer.server), recordings, strict=True)
    ]
    transfer.begin(SIZE, "100M")
    transfer.check(transfer.finish())
    lines = played(*recordings)
    assert played(*recordings) == lines
    replayed, live = series(points(lines)), series(of_flows(lab))

    def totals(found: Series) -> dict[Any, float]:
        added: dict[Any, float] = {}
        for (metric, _, *attributes), value in found.items():
            if metric in {"tcp.bytes", "tcp.new_sockets", "tcp.closed_sockets"}:
                added[metric, tuple(attributes)] = added.get((metric, tuple(attributes)), 0) + value
        return added

    first, second = totals(replayed), totals(live)
    assert {
        k: (first.get(k), second.get(k)) for k in first.keys() | second.keys() if first.get(k) != second.get(k)
    } == {}


def test_a_collector_that_was_killed_is_played_until_then(lab: Lab, tmp_path: Path) -> None:
    recording = tmp_path / "recording"
    host = lab.host("node")
    lab.start_reducer()
    collector = lab.start_collector(host, options=("--record", str(recording)))
    begun = recording.stat().st_size
    wait_until(lambda: recording.stat().st_size > begun, 60, "the first poll")
    collector.stop(signal.SIGKILL)
    whole = recording.read_bytes()
    recording.write_bytes(whole[:-5])
    done = subprocess.run(
        [script("ebpf-net"), "replay", str(recording)], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "cut off" in done.stderr


def test_what_is_no_recording(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("something else")
    done = subprocess.run(
        [script("ebpf-net"), "replay", str(tmp_path / "file")], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
