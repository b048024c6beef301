"""A connection of HTTP whose both ends are the test's, and what the probe tells of it."""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ebpf_net.v1 import intake_pb2

from intake.columns import HTTP_STATUSES
from kernel_collector.http.probe import HttpProbe
from kernel_collector.http.rows import http_rows
from kernel_collector.machine.network_namespaces import NetworkNamespace
from kernel_collector.packets import Packets
from tests.lab.sockets import cookie

COUNTERS = ("events_lost", "sockets_untracked", "heads_unknown", "requests_untimed", "packets_cut", "places_taken")
LOOPBACK = {"ipv4": "127.0.0.1", "ipv6": "::1"}
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
PIPELINED = 16  # requests of a socket whose times are kept


class Told(NamedTuple):
    """What the probe tells of a socket: requests, responses by status, and of how many responses the latency."""

    requests: int
    statuses: dict[int, int]
    timed: int


class Connection:
    """A connection whose both ends are the test's."""

    def __init__(self, host, address="127.0.0.1", listener=None, client=None):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with host.entered():
            listening = listener or socket.create_server((address, 0), family=family)
            self.client = client or socket.socket(family)
            self.client.connect(listening.getsockname()[:2])
        self.server, _ = listening.accept()
        if not listener:
            listening.close()
        for end in (self.client, self.server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(60)
        self.client_cookie, self.server_cookie = cookie(self.client), cookie(self.server)

    def ask(self, *parts):
        """Send from the client, each part in a packet of its own, and have the server read them."""
        carry(self.client, self.server, parts)

    def answer(self, *parts):
        carry(self.server, self.client, parts)

    def close(self):
        self.client.close()
        self.server.close()


@contextlib.contextmanager
def opened_probe(host, **constants):
    """Open a probe that is limited to the host; *constants* are those of its programs."""
    with (
        NetworkNamespace(host.namespace) as namespace,
        Packets(Path("/proc"), ("http",), frozenset([namespace.inode]), constants) as packets,
        contextlib.closing(HttpProbe(packets)) as probe,
    ):
        yield probe


def sent_again(sock):
    """Return how many segments the kernel sent again (tcpi_total_retrans)."""
    return struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0]


def carry(sender, receiver, parts):
    for part in parts:
        sender.sendall(part)
        read = 0
        while read < len(part):
            read += len(receiver.recv(len(part) - read))


class Since:
    """A probe that other tests have used before."""

    def __init__(self, probe):
        self._probe = probe
        self._before = {name: getattr(probe, name) for name in COUNTERS}
        records(probe)

    def poll(self):
        return self._probe.poll()

    def drain(self):
        return self._probe.drain()

    def grown(self, counter):
        return getattr(self._probe, counter) - self._before[counter]


def nobodys(sockets):
    return np.zeros(len(sockets["socket"]), np.uint32)


def records(probe):
    return np.concatenate([probe.poll(), probe.drain()])


def tables(probe):
    found = records(probe)
    return http_rows(found, nobodys)


def told(probe):
    """Return what is new, by socket cookie."""
    found = tables(probe)
    http, bins = found["http"], found["bins"]
    result = {}
    for row in range(len(http["socket"])):
        own = bins["socket"] == http["socket"][row]
        of_status = own & (bins["kind"] == intake_pb2.BIN_KIND_HTTP_STATUS)
        statuses = dict(zip(bins["bin"][of_status].tolist(), bins["count"][of_status].tolist(), strict=True))
        responses = sum(int(http[name][row]) for name in HTTP_STATUSES)
        if http["status"][row]:
            assert not statuses
            statuses = {int(http["status"][row]): responses}
            of_class = {2: "status_2xx", 3: "status_3xx", 4: "status_4xx", 5: "status_5xx"}
            assert http[of_class.get(int(http["status"][row]) // 100, "status_other")][row] == responses
        assert sum(statuses.values()) == responses
        latencies = int(bins["count"][own & (bins["kind"] == intake_pb2.BIN_KIND_HTTP_LATENCY)].sum())
        assert latencies == (0 if http["latency_bin"][row] else http["latency_count"][row])
        result[int(http["socket"][row])] = Told(int(http["requests"][row]), statuses, int(http["latency_count"][row]))
    return result


def both(probe, connection):
    """Return what client and server of a connection have both seen since the call before."""
    found = told(probe)
    client, server = (found.get(each, Told(0, {}, 0)) for each in (connection.client_cookie, connection.server_cookie))
    assert client == server
    return client
