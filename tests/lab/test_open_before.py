"""Connections that were open before the collector started count from then on, with their owner."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.daemons import Exported

if TYPE_CHECKING:
    from tests.lab.daemons import Lab
    from tests.lab.network import Host

BEFORE = 3_000_000
AFTER = 1_234_567
BACK = 7_654


def connect(client: Host, server: Host) -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a connection between two hosts; this process holds both."""
    with server.entered():
        listener = socket.create_server((server.ipv4, 0))
    with client.entered(), listener:
        client_end = socket.create_connection(listener.getsockname())
        return client_end, listener.accept()[0]


def send(sender: socket.socket, receiver: socket.socket, size: int) -> None:
    """Send *size* bytes and receive them."""
    sent = received = 0
    while received < size:
        sent += sender.send(bytes(min(size - sent, 100_000))) if sent < size else 0
        received += len(receiver.recv(1 << 20))


def test_bytes_count_from_the_start_of_the_collector(lab: Lab) -> None:
    client, server = lab.host("client"), lab.host("server")
    with_traffic, idle = connect(client, server), connect(client, server)
    send(*with_traffic, BEFORE)
    send(*idle, BEFORE)

    reducer = lab.start_reducer_with_sink()
    collectors = [lab.start_collector(host) for host in (client, server)]
    send(*with_traffic, AFTER)
    send(*reversed(with_traffic), BACK)
    for end in (*with_traffic, *idle):
        end.close()
    lab.finish(reducer, *collectors)

    exported = Exported(lab.sink.points())
    this_process = Path("/proc/self/comm").read_text().strip()
    names = {"source__process__name": this_process, "dest__process__name": this_process}
    assert exported.total("tcp.bytes", source__id=client.name, dest__id=server.name, **names) == AFTER
    assert exported.total("tcp.bytes", source__id=server.name, dest__id=client.name, **names) == BACK
    assert exported.total("tcp.new_sockets", **names) == 0
    assert exported.total("tcp.closed_sockets", **names) == 2
