"""The DNS between hosts is exported to the query: dnsmasq answers, dnspython and glibc ask."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from typing import TYPE_CHECKING

import dns.message
import dns.query
import dns.rcode
import pytest

from tests.lab.daemons import Exported
from tests.lab.network import wait_for_listener
from tests.packages import debian_program

if TYPE_CHECKING:
    from tests.lab.daemons import Lab
    from tests.lab.network import Host
    from tests.lab.programs import Program

TIMEOUT_S = 10


def dnsmasq(lab: Lab, host: Host, *options: str) -> Program:
    """Start dnsmasq, which knows what *options* say, refuses all else and writes what it is asked."""
    program = lab.programs.start(
        f"dnsmasq-{host.name}",
        debian_program("usr/sbin/dnsmasq", "dnsmasq-base"),
        *("--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--pid-file"),
        *("--log-queries", "--log-facility=-", *options),
        host=host,
    )
    wait_for_listener(host, 53, "udp")
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
    found: dict[str, float] = {}
    for point in exported.points("dns.rcodes", **ends):
        found[point.attributes["rcode"]] = found.get(point.attributes["rcode"], 0) + point.value
    return {name: value for name, value in found.items() if value}


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_dnsmasq_with_a_collector_on_each_host(lab: Lab, family: str) -> None:
    client, server = lab.host("client"), lab.host("server")
    ips = {host: getattr(host, family) for host in (client, server)}
    reducer = lab.start_reducer_with_sink()
    collectors = [lab.start_collector(host) for host in (client, server)]
    program = dnsmasq(
        lab,
        server,
        *("--local=/test/", "--host-record=a.test,192.0.2.1", "--cname=alias.test,a.test"),
        f"--txt-record=long.test,{','.join(['x' * 250] * 4)}",
    )
    of_client = Client(client, ips[server])
    for tcp in (False, True):
        of_client.ask("a.test", times=40, tcp=tcp)
        of_client.ask("A.tEsT", times=2, tcp=tcp)
        of_client.ask("a.test", "AAAA", times=7, tcp=tcp)
        of_client.ask("alias.test", times=3, tcp=tcp)
        of_client.ask("missing.test", times=11, tcp=tcp)
        of_client.ask("elsewhere.example", times=5, tcp=tcp)
    assert len(of_client.ask("long.test", "TXT").answer) == 1
    assert of_client.rcodes == {"NOERROR": 92, "NODATA": 14, "NXDOMAIN": 22, "REFUSED": 10}
    assert asked(program) == of_client.queries
    lab.finish(reducer, *collectors)
    exported = Exported(lab.sink.points())
    ends = {"source__ip": ips[client], "dest__ip": ips[server]}
    assert exported.total("dns.queries", **ends, dest__process__name="dnsmasq") == of_client.queries
    assert exported.total("dns.queries") == exported.total("dns.responses") == of_client.queries
    assert rcodes(exported, **ends) == of_client.rcodes
    assert not exported.total("dns.timeouts")
    assert not exported.total("dns.retransmits")


def test_a_forwarder_is_client_and_server_and_latencies_are_those_of_whom_it_asks(lab: Lab) -> None:
    client, forwarder, server = lab.host("client"), lab.host("forwarder"), lab.host("server")
    reducer = lab.start_reducer_with_sink()
    collectors = [lab.start_collector(host) for host in (client, forwarder)]
    dnsmasq(lab, forwarder, f"--server={server.ipv4}", "--cache-size=0")
    delay_s, count = 0.05, 10
    with server.entered():
        upstream = socket.socket(type=socket.SOCK_DGRAM)
    with upstream:
        upstream.bind((server.ipv4, 53))
        upstream.settimeout(5)
        with client.entered():
            asking = socket.socket(type=socket.SOCK_DGRAM)
        with asking:
            for number in range(count):
                query = dns.message.make_query(f"{number}.test", "A")
                asking.sendto(query.to_wire(), (forwarder.ipv4, 53))
                wire, where = upstream.recvfrom(4096)
                time.sleep(delay_s)
                answer = dns.message.make_response(dns.message.from_wire(wire))
                answer.set_rcode(dns.rcode.NXDOMAIN)
                upstream.sendto(answer.to_wire(), where)
                asking.settimeout(5)
                assert dns.message.from_wire(asking.recv(4096)).rcode() == dns.rcode.NXDOMAIN
    lab.finish(reducer, *collectors)
    exported = Exported(lab.sink.points())
    for source, dest in ((client, forwarder), (forwarder, server)):
        ends = {"source__ip": source.ipv4, "dest__ip": dest.ipv4}
        assert rcodes(exported, **ends) == {"NXDOMAIN": count}
        # A window in which all queries are open still has no mean: 0.
        means = [point.value for point in exported.points("dns.client.duration.average", **ends) if point.value]
        assert all(delay_s < mean < delay_s + 0.5 for mean in means), means
        assert means


def test_queries_without_answer_and_those_that_are_sent_again(lab: Lab) -> None:
    client, server = lab.host("client"), lab.host("server")
    reducer = lab.start_reducer_with_sink()
    collectors = [lab.start_collector(host) for host in (client, server)]
    dnsmasq(lab, server, "--local=/test/", "--host-record=a.test,192.0.2.1")
    server.firewall("deaf", input_rules="udp dport 53 drop")
    with contextlib.ExitStack() as stack:
        with client.entered():
            gone, patient = (stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(2))
        lost, late = (dns.message.make_query("a.test", "A").to_wire() for _ in range(2))
        gone.sendto(lost, (server.ipv4, 53))
        gone.sendto(lost, (server.ipv4, 53))
        gone.close()
        patient.sendto(late, (server.ipv4, 53))
        server.firewall("deaf")
        patient.sendto(late, (server.ipv4, 53))
        patient.settimeout(5)
        assert dns.message.from_wire(patient.recv(4096)).rcode() == dns.rcode.NOERROR
        time.sleep(TIMEOUT_S + 1.5)
    lab.finish(reducer, *collectors)
    exported = Exported(lab.sink.points())
    ends = {"source__ip": client.ipv4, "dest__ip": server.ipv4}
    assert exported.total("dns.queries", **ends) == 2
    assert exported.total("dns.retransmits", **ends) == 2
    assert exported.total("dns.timeouts", **ends) == 1
    assert rcodes(exported, **ends) == {"NOERROR": 1}


def test_glibc_asks_and_what_it_learned_names_the_other_end(lab: Lab) -> None:
    client, server, web = lab.host("client"), lab.host("server"), lab.host("web")
    reducer = lab.start_reducer_with_sink()
    collector = lab.start_collector(client)
    dnsmasq(lab, server, "--local=/test/", f"--host-record=a.test,{web.ipv4}", "--cname=www.test,a.test")
    resolver = lab.directory / "resolv.conf"
    resolver.write_text(f"nameserver {server.ipv4}\n")
    script = f"mount --bind {resolver} /etc/resolv.conf; exec getent ahosts www.test"
    assert web.ipv4 in client.run("unshare", "--mount", "sh", "-c", script)
    time.sleep(1)  # a poll
    with (
        web.entered(),
        socket.create_server((web.ipv4, 0)) as listener,
        client.entered(),
        socket.create_connection(listener.getsockname()) as connection,
    ):
        connection.sendall(b"x" * 777)
    lab.finish(reducer, collector)
    exported = Exported(lab.sink.points())
    ends = {"source__ip": client.ipv4, "dest__ip": server.ipv4}
    assert exported.total("dns.queries", **ends, source__process__name="getent") == 2  # A and AAAA
    assert rcodes(exported, **ends) == {"NOERROR": 1, "NODATA": 1}
    assert exported.total("tcp.bytes", source__ip=client.ipv4, dest__workload__name="www.test") == 777


def test_the_dns_can_be_left_alone(lab: Lab) -> None:
    client, server = lab.host("client"), lab.host("server")
    reducer = lab.start_reducer_with_sink()
    collector = lab.start_collector(client, options=["--disable-dns-metrics"])
    dnsmasq(lab, server, "--local=/test/")
    Client(client, server.ipv4).ask("a.test")
    lab.finish(reducer, collector)
    assert not Exported(lab.sink.points()).points("dns.queries")
