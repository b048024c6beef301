"""The DNS between hosts is exported to the query: dnsmasq answers, dnspython and glibc ask."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

import dns.message
import dns.query
import dns.rcode
import pytest

from tests.lab.daemons import Exported
from tests.lab.dnsmasq import Client, asked, dnsmasq, rcodes

if TYPE_CHECKING:
    from tests.lab.daemons import Lab


TIMEOUT_S = 10


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
    delay_s, count, waited_s = 0.05, 10, []
    with server.entered():
        upstream = socket.socket(type=socket.SOCK_DGRAM)
    with upstream:
        upstream.bind((server.ipv4, 53))
        upstream.settimeout(5)
        with client.entered():
            asking = socket.socket(type=socket.SOCK_DGRAM)
        with asking:
            for number in range(count):
                query = dns.message.make_query(f"{number}.test", "A").to_wire()
                begun = time.monotonic()
                asking.sendto(query, (forwarder.ipv4, 53))
                wire, where = upstream.recvfrom(4096)
                time.sleep(delay_s)
                answer = dns.message.make_response(dns.message.from_wire(wire))
                answer.set_rcode(dns.rcode.NXDOMAIN)
                upstream.sendto(answer.to_wire(), where)
                asking.settimeout(5)
                answer = asking.recv(4096)
                waited_s.append(time.monotonic() - begun)
                assert dns.message.from_wire(answer).rcode() == dns.rcode.NXDOMAIN
    lab.finish(reducer, *collectors)
    exported = Exported(lab.sink.points())
    for source, dest in ((client, forwarder), (forwarder, server)):
        ends = {"source__ip": source.ipv4, "dest__ip": dest.ipv4}
        assert rcodes(exported, **ends) == {"NXDOMAIN": count}
        # A window in which all queries are open still has no mean: 0.
        means = [point.value for point in exported.points("dns.client.duration.average", **ends) if point.value]
        assert all(delay_s < mean < max(waited_s) for mean in means), (means, waited_s)
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
