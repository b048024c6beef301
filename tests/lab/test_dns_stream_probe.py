"""The DNS probe alone, over TCP, against what this test itself asked and answered on the running kernel."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from kernel_collector.dns.answers import read_answer
from kernel_collector.dns.probe import DnsProbe, constants
from kernel_collector.packets import Packets
from tests.dns_messages import query, response
from tests.lab.dns_sockets import (
    CLIENT,
    LOOPBACK,
    SERVER,
    A,
    Tcp,
    counted,
    framed,
    opened_probe,
    send,
)
from tests.rows import packed


@pytest.fixture
def probe(host):
    with opened_probe(host) as opened:
        yield opened


@pytest.mark.parametrize("address", LOOPBACK.values(), ids=LOOPBACK)
def test_at_both_ends(host, probe, address):
    with Tcp(host, address) as tcp:
        for code, times in (("NOERROR", 2), ("NXDOMAIN", 3), ("SERVFAIL", 1)):
            for _ in range(times):
                message = query("a.example.")
                send(tcp.client, tcp.server, framed(message))
                send(tcp.server, tcp.client, framed(response(message, *([A] if code == "NOERROR" else []), rcode=code)))
        traffic = probe.drain()
        for sock, role in ((tcp.client, CLIENT), (tcp.server, SERVER)):
            assert counted(traffic, sock, role=role) == {"queries": 6, "noerror": 2, "nxdomain": 3, "servfail": 1}
        assert set(traffic.peers["transport"].tolist()) == {socket.IPPROTO_TCP}
        assert {bytes(each) for each in traffic.peers["remote_address"]} == {packed(address)}
        assert {read_answer(*each[:1]).name for each in probe.answers()} == {"a.example"}
        assert probe.counter("dns_streams_lost") == probe.counter("dns_messages_malformed") == 0


@pytest.mark.parametrize("lengths", [[1] * 200, [2], [1, 1], [2, 12], [40], [14, 1], [3] * 60], ids=str)
def test_messages_in_pieces(host, probe, lengths):
    with Tcp(host) as tcp:
        messages = [query("a.example."), query("b.example.")]
        send(tcp.client, tcp.server, b"".join(map(framed, messages)), *lengths)
        answers = [response(messages[0], A), response(messages[1], rcode="NXDOMAIN")]
        send(tcp.server, tcp.client, b"".join(map(framed, answers)), *lengths)
        traffic = probe.drain()
        for sock in (tcp.client, tcp.server):
            assert counted(traffic, sock) == {"queries": 2, "noerror": 1, "nxdomain": 1}
        (told,) = probe.answers()
        assert read_answer(told.content, whole=told.whole).addresses == (packed("192.0.2.1"),)
        assert probe.counter("dns_streams_lost") == probe.counter("dns_messages_malformed") == 0


def test_many_messages_in_a_packet(host, probe):
    with Tcp(host) as tcp:
        messages = [query(f"{number}.example.", number=number) for number in range(100)]
        answers = b"".join(framed(response(message, rcode="NXDOMAIN")) for message in messages)
        send(tcp.client, tcp.server, b"".join(map(framed, messages)))
        send(tcp.server, tcp.client, answers)
        traffic = probe.drain()
        for sock in (tcp.client, tcp.server):
            assert counted(traffic, sock) == {"queries": 100, "nxdomain": 100}


def test_messages_beyond_the_limit_of_a_packet_are_passed_over_and_the_next_packet_is_read(host, probe):
    with Tcp(host) as tcp:
        for count in (200, 1):
            messages = [query(f"{number}.example.", number=number) for number in range(count)]
            send(tcp.client, tcp.server, b"".join(map(framed, messages)))
        assert counted(probe.drain(), tcp.client)["queries"] in (128, 129)  # one of them may be asked again
        assert probe.counter("dns_streams_lost") == 2


def test_a_message_of_many_packets(host, probe):
    with Tcp(host) as tcp:
        addresses = [f"192.0.{number // 256}.{number % 256}" for number in range(1500)]
        first, second = query("a.example."), query("b.example.")
        answers = response(first, ("a.example.", 60, "A", *addresses)), response(second, rcode="REFUSED")
        send(tcp.client, tcp.server, framed(first) + framed(second))
        assert len(answers[0]) > 24_000
        send(tcp.server, tcp.client, b"".join(map(framed, answers)), *[1000] * 30)
        traffic = probe.drain()
        for sock in (tcp.client, tcp.server):
            assert counted(traffic, sock) == {"queries": 2, "noerror": 1, "refused": 1}
        (told,) = probe.answers()
        assert len(read_answer(told.content, whole=told.whole).addresses) > 50


def test_a_connection_from_before(host):
    with Tcp(host) as tcp:
        send(tcp.client, tcp.server, framed(query("a.example."))[:20])
        with (
            Packets(Path("/proc"), ("dns",), constants=constants()) as packets,
            contextlib.closing(DnsProbe(packets)) as probe,
        ):
            send(tcp.client, tcp.server, framed(query("a.example."))[20:])
            message = query("b.example.")
            send(tcp.client, tcp.server, framed(message))
            send(tcp.server, tcp.client, framed(response(message)))
            traffic = probe.drain()
            for sock in (tcp.client, tcp.server):
                assert counted(traffic, sock) == {"queries": 1, "nodata": 1}
