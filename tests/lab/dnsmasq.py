"""dnsmasq on a host, a client that asks it, and what was exported of both."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import dns.message
import dns.query
import dns.rcode

from tests.lab.network import wait_for_listener
from tests.packages import debian_program

if TYPE_CHECKING:
    from tests.lab.daemons import Exported, Lab
    from tests.lab.network import Host
    from tests.lab.programs import Program


def dnsmasq(lab: Lab, host: Host, *options: str, port: int = 53) -> Program:
    """Start dnsmasq, which knows what *options* say, refuses all else and writes what it is asked."""
    program = lab.programs.start(
        f"dnsmasq-{host.name}",
        debian_program("usr/sbin/dnsmasq", "dnsmasq-base"),
        *("--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--pid-file"),
        *("--log-queries", "--log-facility=-", f"--port={port}", *options),
        host=host,
    )
    wait_for_listener(host, port, "udp")
    return program


def asked(program: Program) -> int:
    """Return how many queries it has logged."""
    return len(re.findall(r"query\[", program.output()))


class Client:
    """Asks from a host, by IPv4 or IPv6, and counts what it was told."""

    def __init__(self, host: Host, server: str) -> None:
        self.rcodes: dict[str, int] = {}
        self.queries = 0
        self._host = host
        self._server = server

    def ask(self, name: str, kind: str = "A", times: int = 1, *, tcp: bool = False) -> dns.message.Message:
        """Ask; over TCP by itself, or where the answer over UDP is truncated."""
        query = dns.message.make_query(name, kind)
        query.use_edns(edns=-1)
        for _ in range(times):
            query.id = (query.id + 1) % 65_536
            with self._host.entered():
                if tcp:
                    answer, by_tcp = dns.query.tcp(query, self._server, 10), False
                else:
                    answer, by_tcp = dns.query.udp_with_fallback(query, self._server, 10)
            self._count(answer)
            if by_tcp:
                self._count(answer)  # the truncated one had the same code
        return answer

    def _count(self, answer: dns.message.Message) -> None:
        name = dns.rcode.to_text(answer.rcode())
        if name == "NOERROR" and not any(each.rdtype == answer.question[0].rdtype for each in answer.answer):
            name = "NODATA"
        self.rcodes[name] = self.rcodes.get(name, 0) + 1
        self.queries += 1


def rcodes(exported: Exported, **ends: str) -> dict[str, float]:
    """Return how many answers of each code were exported of flows with these ends."""
    found: dict[str, float] = {}
    for point in exported.points("dns.rcodes", **ends):
        found[point.attributes["rcode"]] = found.get(point.attributes["rcode"], 0) + point.value
    return {name: value for name, value in found.items() if value}
