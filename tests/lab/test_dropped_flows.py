"""What a kernel drops is exported by reason, on the flow that it was of."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tests.lab.daemons import Exported
from tests.lab.sockets import wait_until_closed

if TYPE_CHECKING:
    from tests.lab.daemons import Lab

PORT = 8080


def test_exported_by_reason_with_the_ends_of_the_flow(lab: Lab) -> None:
    """A client whose packets a machine on the way translates, and the server's firewall drops one in ten."""
    client, server = lab.host("client"), lab.host("server")
    rule = f"chain prerouting {{ type nat hook prerouting priority -100; tcp dport 80 redirect to :{PORT}\n}}"
    server.run("nft", "-f", "-", input=f"table ip services {{\n{rule}\n}}\n")
    server.firewall("loss", input_rules=f"tcp dport {PORT} numgen inc mod 10 < 1 counter drop")
    reducer = lab.start_reducer_with_sink()
    collectors = [lab.start_collector(host) for host in (client, server)]
    with server.entered():
        listener = socket.create_server((server.ipv4, PORT))
    with listener, client.entered():
        one = socket.create_connection((server.ipv4, 80))
        with one, listener.accept()[0] as accepted:
            for _ in range(60):
                one.sendall(b"x" * 100)
                accepted.recv(100)
    for host, port in ((client, 80), (server, PORT)):
        wait_until_closed(host, port)
    lab.finish(reducer, *collectors)
    exported = Exported(lab.sink.points())
    packets, size = server.counted("loss")
    assert packets > 5
    ends = {"source__ip": client.ipv4, "dest__ip": server.ipv4, "reason": "NETFILTER_DROP"}
    assert exported.total("drops.packets", **ends) == packets
    assert exported.total("drops.bytes", **ends) == size
    names = {"source__process__name": "python", "dest__process__name": "python"}
    # The first is the SYN: a connection that has not begun is nobody's.
    assert exported.total("drops.packets", **ends, **names) == packets - 1
