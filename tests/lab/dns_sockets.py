"""Sockets that speak DNS, whose both ends are the test's, and what the probe tells of them."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import struct
from pathlib import Path

import numpy as np

from intake.clock import SECOND_NS
from intake.columns import DNS_RESULTS
from kernel_collector.dns.probe import DnsProbe, constants
from kernel_collector.machine.network_namespaces import NetworkNamespace
from kernel_collector.packets import Packets
from tests.dns_messages import response
from tests.lab.sockets import arrival, cookie

TIMEOUT_S = 1.5
LOOPBACK = {"ipv4": "127.0.0.1", "ipv6": "::1"}
CLIENT, SERVER = 1, 2
A = ("a.example.", 60, "A", "192.0.2.1")


@contextlib.contextmanager
def opened_probe(host):
    """Yield a probe of the host's network namespace that gives queries *TIMEOUT_S*."""
    timeout_ns = int(TIMEOUT_S * SECOND_NS)
    with (
        NetworkNamespace(host.namespace) as namespace,
        Packets(Path("/proc"), ("dns",), frozenset([namespace.inode]), constants(timeout_ns)) as packets,
        contextlib.closing(DnsProbe(packets, timeout_ns)) as opened,
        arrival(host) as arrived,
    ):
        drain = opened.drain
        opened.drain = lambda: (arrived(), drain())[1]
        yield opened


def open_socket(host, address, port=0, kind=socket.SOCK_DGRAM):
    with host.entered():
        opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.bind((address, port))
    opened.settimeout(5)
    return opened


@dataclasses.dataclass
class Udp:
    """A client and a server, and what goes between them."""

    client: socket.socket
    server: socket.socket

    def ask(self, message):
        """Send a query; return it and its sender as the server got them."""
        self.client.sendto(message, self.server.getsockname()[:2])
        return self.server.recvfrom(65_536)

    def exchange(self, message, *records, **options):
        answer = response(message, *records, **options)  # which takes long where the machine is emulated
        _, client = self.ask(message)
        self.server.sendto(answer, client[:2])
        return self.client.recv(65_536)


class Tcp:
    """A connection to port 53."""

    def __init__(self, host, address="127.0.0.1"):
        self._listener = open_socket(host, address, 53, socket.SOCK_STREAM)
        self._listener.listen()
        self.client = open_socket(host, address, 0, socket.SOCK_STREAM)
        self.client.connect((address, 53))
        self.server, _ = self._listener.accept()
        for each in (self.client, self.server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for each in (self.client, self.server, self._listener):
            each.close()


def framed(message):
    return struct.pack("!H", len(message)) + message


def send(sock, other, data, *lengths):
    """Send *data* in pieces of these lengths, and the rest, each in a packet of its own that has arrived."""
    start = 0
    for length in (*lengths, len(data)):
        piece = data[start : start + length]
        sock.sendall(piece)
        read = 0
        while read < len(piece):
            read += len(other.recv(65_536))
        start += length


def counted(traffic, sock, **wanted):
    """Return the counters of a socket, all its peers together, that are not 0."""
    mine = traffic.peers["cookie"] == cookie(sock)
    for name, value in wanted.items():
        mine &= traffic.peers[name] == value
    counts = traffic.counts[mine]
    found = {name: int(counts[name].sum()) for name in ("queries", "retransmits", "timeouts")}
    results = np.ascontiguousarray(counts["results"]).view("<u4").reshape(-1, len(DNS_RESULTS)).sum(0)
    found |= dict(zip(DNS_RESULTS, results.tolist(), strict=True))
    assert counts["latency_count"].sum() == results.sum()
    of_bins = np.isin(traffic.bins["entry"], counts["number"])
    assert traffic.bin_counts[of_bins].sum() + counts["latency_bin_count"].sum() == results.sum()
    return {name: value for name, value in found.items() if value}
