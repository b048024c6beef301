"""Resets and connects that fail: the rows of both ends, against what the programs and the kernel's counters say."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import select
import socket
import struct
import time

import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from kernel_collector.machine.network_namespaces import NetworkNamespace
from kernel_collector.tcp.probe import TcpProbe
from kernel_collector.tcp.sockets import SocketTable
from tests.lab.http_connection import sent_again
from tests.lab.network import Network
from tests.lab.sockets import cookie, kernel_counter
from tests.lab.waiting import wait_until

NEVER_LINGER = struct.pack("ii", 1, 0)
TIMES = 3


class Watched:
    """Two hosts, whose sockets are in one table."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        network = stack.enter_context(contextlib.closing(Network()))
        self.hosts = self.client, self.server = network.host("client"), network.host("server")
        inodes = [stack.enter_context(NetworkNamespace(host.namespace)).inode for host in self.hosts]
        self._probe = stack.enter_context(TcpProbe(frozenset(inodes)))
        self._table = SocketTable(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        self._rows: list[dict[str, np.ndarray]] = []

    def read(self) -> None:
        polled = self._probe.poll()
        records = np.concatenate([self._probe.drain(), polled])
        self._rows.append(self._table.update(records, np.zeros(len(records), np.uint32), 0))

    def rows(self) -> dict[str, np.ndarray]:
        self.read()
        return {name: np.concatenate([rows[name] for rows in self._rows]) for name in self._rows[0]}

    def total(self, cookie: int, column: str) -> int:
        rows = self.rows()
        return int(rows[column][rows["socket"] == cookie].sum())

    def resets_sent(self) -> int:
        """What the kernel counted on both hosts (RFC 4022: tcpOutRsts)."""
        return sum(kernel_counter(host, "Tcp", "OutRsts") for host in self.hosts)


@pytest.fixture
def watched():
    with contextlib.ExitStack() as stack:
        yield Watched(stack)


def closes_with_unread_data(client, server):
    server.sendall(b"x")
    assert client.recv(1, socket.MSG_PEEK)
    client.close()


def closes_without_lingering(client, server):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NEVER_LINGER)
    client.close()


def closes_with_unread_data_after_its_end(client, server):
    """From FIN_WAIT2."""
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    closes_with_unread_data(client, server)


def closes_with_unread_data_after_the_others_end(client, server):
    """From CLOSE_WAIT."""
    server.sendall(b"x")
    server.shutdown(socket.SHUT_WR)
    assert client.recv(1, socket.MSG_PEEK)
    client.close()


def gets_data_after_its_end(client, server):
    """It is reset, by itself: ECONNRESET in FIN_WAIT2."""
    client.shutdown(socket.SHUT_RDWR)
    assert server.recv(1) == b""
    server.sendall(b"late")


def disconnects(client, server):
    """connect(AF_UNSPEC)."""
    assert ctypes.CDLL(None).connect(client.fileno(), struct.pack("H14x", socket.AF_UNSPEC), 16) == 0


def closes_in_order(client, server):
    client.close()
    assert server.recv(1) == b""
    server.close()


def closes_in_order_last(client, server):
    closes_in_order(server, client)


RESETS = [
    closes_with_unread_data,
    closes_without_lingering,
    closes_with_unread_data_after_its_end,
    closes_with_unread_data_after_the_others_end,
    gets_data_after_its_end,
    disconnects,
]


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("by_client", [True, False])
def test_who_reset(watched, family, by_client):
    ends = {}
    before = watched.resets_sent()
    for end in (*RESETS, closes_in_order, closes_in_order_last):
        with contextlib.ExitStack() as stack:
            pairs = [stack.enter_context(connected(watched, family)) for _ in range(TIMES)]
            for client, server in pairs:
                one, other = (client, server) if by_client else (server, client)
                ends[cookie(one), cookie(other)] = end in RESETS
                end(one, other)
                if end in RESETS:
                    wait_until(lambda other=other: error_of(other) in (errno.ECONNRESET, errno.EPIPE), 60, "the reset")
            watched.read()
    for (one, other), reset in ends.items():
        told = [[watched.total(end, name) for name in ("resets_sent", "resets_received")] for end in (one, other)]
        assert told == ([[1, 0], [0, 1]] if reset else [[0, 0], [0, 0]])
        assert [watched.total(end, "closed") for end in (one, other)] == [1, 1]
    assert int(watched.rows()["resets_sent"].sum()) == watched.resets_sent() - before == TIMES * len(RESETS)


def test_a_listener_that_ends_resets_whom_it_did_not_accept(watched):
    with watched.server.entered():
        listener = socket.create_server((watched.server.ipv4, 0))
    with watched.client.entered():
        clients = [socket.create_connection(listener.getsockname()) for _ in range(TIMES)]
    listener.close()
    for client in clients:
        wait_until(lambda client=client: error_of(client) == errno.ECONNRESET, 60, "the reset")
    rows = watched.rows()
    assert (rows["resets_sent"].sum(), rows["resets_received"].sum()) == (TIMES, TIMES)
    assert watched.resets_sent() == TIMES
    for client in clients:
        assert watched.total(cookie(client), "resets_received") == 1
        client.close()


@contextlib.contextmanager
def connected(watched, family):
    with watched.server.entered():
        address = (getattr(watched.server, family), 0)
        listener = socket.create_server(address, family=socket.AF_INET6 if family == "ipv6" else socket.AF_INET)
    with watched.client.entered():
        client = socket.create_connection(listener.getsockname()[:2])
    with listener, client, listener.accept()[0] as server:
        yield client, server


def error_of(sock: socket.socket) -> int:
    try:
        sock.send(b"")
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if sock.fileno() >= 0 else 0
    except OSError as error:
        return error.errno


FAILURE = {
    "refused": intake_pb2.CONNECT_FAILURE_REFUSED,
    "unreachable": intake_pb2.CONNECT_FAILURE_UNREACHABLE,
    "timed out": intake_pb2.CONNECT_FAILURE_TIMED_OUT,
    "cancelled": intake_pb2.CONNECT_FAILURE_CANCELLED,
}
# By port: what the server's firewall does, and what has to be told.
ANSWERS = {
    "ipv4": {
        7001: ("", "refused"),
        7002: ("reject with tcp reset", "refused"),
        7003: ("reject with icmp type port-unreachable", "refused"),
        7004: ("reject with icmp type host-unreachable", "unreachable"),
        7005: ("reject with icmp type net-unreachable", "unreachable"),
        7006: ("reject with icmp type admin-prohibited", "unreachable"),
        7007: ("reject with icmp type prot-unreachable", "unreachable"),
        7008: ("drop", "timed out"),
        7009: ("drop", "cancelled"),
    },
    "ipv6": {
        7001: ("", "refused"),
        7002: ("reject with tcp reset", "refused"),
        7003: ("reject with icmpv6 type port-unreachable", "refused"),
        7004: ("reject with icmpv6 type addr-unreachable", "unreachable"),
        7005: ("reject with icmpv6 type no-route", "unreachable"),
        7006: ("reject with icmpv6 type admin-prohibited", "unreachable"),
        7008: ("drop", "timed out"),
        7009: ("drop", "cancelled"),
    },
}


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_connects_that_fail_and_why(watched, family):
    answers = ANSWERS[family]
    rules = "; ".join(f"tcp dport {port} {verdict}" for port, (verdict, _) in answers.items() if verdict)
    watched.server.firewall("answers", input_rules=rules)
    watched.server.run("sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
    watched.client.run("sysctl", "-qw", "net.ipv4.tcp_syn_retries=1")
    with contextlib.ExitStack() as stack:
        waiting = {}
        for port, (_, reason) in answers.items():
            for _ in range(TIMES):
                with watched.client.entered():
                    kind = socket.AF_INET6 if family == "ipv6" else socket.AF_INET
                    one = stack.enter_context(socket.socket(kind, socket.SOCK_STREAM))
                one.settimeout(0)
                one.connect_ex((getattr(watched.server, family), port))
                waiting[cookie(one)] = (one, port, reason)
        watched.read()
        again = {}
        for key, (one, _, reason) in waiting.items():
            if reason == "cancelled":
                again[key] = sent_again(one)  # on a busy machine it has waited for longer than the first SYN does
                one.close()
        wait_for_ends(one for one, _, reason in waiting.values() if reason != "cancelled")
    rows = watched.rows()
    for key, (_, port, reason) in waiting.items():
        mine = rows["socket"] == key
        assert rows["failed"][mine].sum() == 1, (port, reason)
        assert rows["failure"][mine].max() == FAILURE[reason], (port, reason)
        assert set(rows["remote_port"][mine]) == {port}
        # An error by ICMP that comes while connect() still holds the socket ends it at the next one only.
        if "icmp" not in answers[port][0]:
            told = rows["syn_timeouts"][mine].sum()
            assert told > 0 if reason == "timed out" else told == again.get(key, 0), (port, reason)
    assert rows["syn_timeouts"].sum() == kernel_counter(watched.client, "TcpExt", "TCPSynRetrans")
    assert rows["failed"].sum() == TIMES * len(answers)
    assert rows["opened"].sum() == 0


def test_a_program_that_asks_at_once_why_its_connect_failed(watched):
    """It is told of an error by ICMP that came within connect(), which leaves the socket as it was, and closes."""
    answers = {port: answer for port, answer in ANSWERS["ipv4"].items() if "icmp" in answer[0]}
    rules = "; ".join(f"tcp dport {port} {verdict}" for port, (verdict, _) in answers.items())
    watched.server.firewall("answers", input_rules=rules)
    watched.server.run("sysctl", "-qw", "net.ipv4.icmp_ratelimit=0")
    asked = {}
    for port, (_, reason) in answers.items():
        with watched.client.entered():
            one = socket.socket()
        with one:
            one.settimeout(0)
            assert one.connect_ex((watched.server.ipv4, port)) == errno.EINPROGRESS
            wait_for_ends([one])
            assert one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
            asked[cookie(one)] = reason
    rows = watched.rows()
    assert {key: rows["failure"][rows["socket"] == key].max() for key in asked} == {
        key: FAILURE[reason] for key, reason in asked.items()
    }


def wait_for_ends(sockets):
    """Wait until each has failed."""
    poll = select.poll()
    waiting = {one.fileno() for one in sockets}
    for number in waiting:
        poll.register(number, select.POLLOUT)
    while waiting:
        ready = poll.poll(60_000)
        assert ready, "some neither connect nor fail"
        for number, _ in ready:
            poll.unregister(number)
            waiting.discard(number)
