"""Connection tracking as the kernel tells it: what is lost is told, and all is read again."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import subprocess
from pathlib import Path

import pytest
from ebpf_net.v1 import intake_pb2

from intake.columns import empty_columns
from kernel_collector.concern import Surroundings
from kernel_collector.nat import translations
from kernel_collector.nat.concern import NatConcern, tried
from kernel_collector.nat.conntrack import Conntrack
from kernel_collector.nat.namespace_ids import NamespaceIds
from kernel_collector.options import Settings
from tests.lab.network import Network, forget_connections
from tests.lab.waiting import wait_until
from tests.rows import packed

SERVICE = "10.96.0.1"
RULES = f"""table ip services {{
chain output {{ type nat hook output priority -100;
ip daddr {SERVICE} udp dport 53 dnat to 10.203.0.1:5353
}}
}}
"""


@pytest.fixture
def host():
    with contextlib.closing(Network()) as network:
        network.centre.run("nft", "-f", "-", input=RULES)
        network.centre.run("ip", "route", "add", f"{SERVICE}/32", "dev", "switch")
        yield network.centre


@pytest.fixture
def open_conntrack(host):
    with contextlib.ExitStack() as stack:

        def opened(**options):
            with host.namespace.open() as namespace:
                return stack.enter_context(Conntrack(namespace.fileno(), **options))

        yield opened


_ports = itertools.cycle(range(20_000, 60_000))


def send(host, count, to=SERVICE):
    """Open connections: a datagram each; return their local ports."""
    ports = list(itertools.islice(_ports, count))
    with host.entered():
        for port in ports:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.bind(("10.203.0.1", port))
                one.sendto(b"x", (to, 53))
    return ports


def ports_of(connections):
    return sorted(connections["original"]["local_port"].tolist())


def test_events_are_of_translated_connections_alone(host, open_conntrack):
    conntrack = open_conntrack()
    send(host, 50, to="10.203.0.1")
    ports = send(host, 3)
    new = conntrack.drain()
    assert ports_of(new) == sorted(ports)
    assert not new["ended"].any()
    assert new["translated"]["remote_port"].tolist() == [5353] * 3
    forget_connections(host)
    ended = conntrack.drain()
    assert ports_of(ended[ended["ended"]]) == sorted(ports)
    assert (conntrack.overruns, conntrack.unread) == (0, 0)


def test_a_dump_tells_all_translated_connections_of_any_number(host, open_conntrack):
    """It is read in pieces of 32 KiB, some 100 connections."""
    ports = send(host, 1500)
    send(host, 100, to="10.203.0.1")
    conntrack = open_conntrack()
    assert ports_of(conntrack.dump()) == sorted(ports)
    assert conntrack.unread == 0


def test_more_events_than_the_buffer_holds_are_counted_and_a_dump_has_them(host, open_conntrack):
    conntrack = open_conntrack(buffer_bytes=4096)
    ports = send(host, 500)
    told = conntrack.drain()
    assert len(told) < 500
    assert conntrack.overruns > 0
    assert ports_of(conntrack.dump()) == sorted(ports)
    more = send(host, 1)
    assert ports_of(conntrack.drain()) == more, "it goes on"


def test_the_collector_reads_all_again_where_events_were_lost(host, monkeypatch):
    monkeypatch.setattr(Conntrack.__init__, "__defaults__", (None, 4096))
    settings = Settings(network_namespaces=(host.namespace,))
    with contextlib.closing(NatConcern(Surroundings(settings, frozenset(), None, None, None))) as concern:
        ports = send(host, 500)
        rows = empty_columns(500, "udp")
        rows["local_port"], rows["remote_port"][:] = ports, 53
        rows["local_address"][:], rows["remote_address"][:] = packed("10.203.0.1"), packed(SERVICE)
        given = concern.rewrite({"udp": rows})["udp"]
        assert set(given["remote_port"].tolist()) == {5353}
        assert set(given["remote_address"].tolist()) == {packed("10.203.0.1")}
        statistics = statistics_of(concern)
        assert statistics.translation_overruns > 0
        assert statistics.translations_tracked >= 500


@pytest.fixture
def host_directory(host, tmp_path):
    """The root directory of a machine whose network namespace is the host's, and of whose processes this shows one."""
    (tmp_path / "proc" / "1" / "ns").mkdir(parents=True)
    (tmp_path / "proc" / "1" / "ns" / "net").symlink_to(host.namespace)
    (tmp_path / "proc" / "stat").touch()
    return tmp_path


SENDER = f"""
import socket
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind(("0.0.0.0", 40000))
one.sendto(b"x", ("{SERVICE}", 53))
input()
"""


@contextlib.contextmanager
def shown(host_directory, process):
    """Show a process in the machine's /proc, and have it end then."""
    path = host_directory / "proc" / f"{process.pid}"
    path.symlink_to(f"/proc/{process.pid}")
    try:
        yield
    finally:
        process.communicate(b"\n")
        path.unlink()


def opened_concern(host_directory):
    settings = Settings(host_directory=host_directory)
    return contextlib.closing(NatConcern(Surroundings(settings, frozenset(), None, None, None)))


def drain_when_woken(concern):
    async def wait():
        woken = asyncio.Event()
        asyncio.get_running_loop().add_reader(concern.wakeup_fd, woken.set)
        await asyncio.wait_for(woken.wait(), 10)
        concern.drain()

    asyncio.run(wait())


def start_sender(pod):
    with pod.entered():
        return subprocess.Popen(["python3", "-c", SENDER], stdin=subprocess.PIPE)


def wait_until_free(ids: NamespaceIds, number: int) -> None:
    """Wait until a network namespace is gone, by its number."""
    ended: set[int] = set()

    def free() -> bool:
        ended.update(ids.ended() or ())
        return number in ended

    wait_until(free, 60, "the number of a network namespace to be free")


def statistics_of(concern):
    statistics = intake_pb2.CollectorStatistics()
    concern.fill(statistics)
    return statistics


def test_what_a_pod_translated_that_is_gone_before_its_events_are_entered_is_forgotten(
    host, host_directory, monkeypatch
):
    monkeypatch.setattr(translations, "KEPT_NS", 0)
    with contextlib.closing(Network()) as network:
        pod = network.behind(host, "pod")
        pod.run("nft", "-f", "-", input=RULES)
        with host.entered():
            ids = NamespaceIds()
        with ids, opened_concern(host_directory) as concern:
            with shown(host_directory, start_sender(pod)):
                drain_when_woken(concern)
            with pod.namespace.open() as namespace:
                number = ids.of(namespace.fileno())
            network.remove(pod)
            wait_until_free(ids, number)
            concern.rewrite({})
            assert statistics_of(concern).translations_tracked == 1
            concern.read()
            assert statistics_of(concern).translations_tracked == 0


def test_a_pod_that_is_gone_before_its_rows_come_is_known_from_its_first_event(host, host_directory):
    with contextlib.closing(Network()) as network:
        pod = network.behind(host, "pod")
        pod.run("nft", "-f", "-", input=RULES)
        with opened_concern(host_directory) as concern:
            with shown(host_directory, start_sender(pod)):
                drain_when_woken(concern)
            rows = empty_columns(1, "udp")
            rows["local_port"][0], rows["remote_port"][0] = 40000, 53
            rows["local_address"][0], rows["remote_address"][0] = packed(pod.ipv4), packed(SERVICE)
            rows["network_namespace"][0] = pod.namespace.stat().st_ino
            given = concern.rewrite({"udp": rows})["udp"]
            assert given["remote_address"].tolist() == [packed("10.203.0.1")]
            assert given["remote_port"].tolist() == [5353]


def test_preflight_tells_how_many_there_are():
    assert "connections are translated" in tried(Path("/proc"), Path())
