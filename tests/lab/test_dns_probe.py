"""The DNS probe alone, against what this test itself asked and answered on the running kernel."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from intake.clock import SECOND_NS
from kernel_collector.dns.answers import read_answer
from tests.dns_messages import query, response
from tests.lab.dns_sockets import (
    CLIENT,
    LOOPBACK,
    SERVER,
    TIMEOUT_S,
    A,
    Udp,
    counted,
    open_socket,
    opened_probe,
)
from tests.lab.network import Network
from tests.lab.sockets import cookie
from tests.rows import packed

UDP_SEGMENT = 103


@pytest.fixture
def probe(host):
    with opened_probe(host) as opened:
        yield opened


@pytest.fixture
def udp(host):
    with open_socket(host, "127.0.0.1") as client, open_socket(host, "127.0.0.1", 53) as server:
        yield Udp(client, server)


def test_many_sockets_are_told_in_parts_each_once_and_with_its_bins(host, probe, udp, monkeypatch):
    monkeypatch.setattr("kernel_collector.bpf.bpf_object.BATCH_ENTRIES", 32)
    asked = {}
    with contextlib.ExitStack() as stack:
        for number in range(100):
            one = Udp(stack.enter_context(open_socket(host, "127.0.0.1")), udp.server)
            asked[cookie(one.client)] = 1 + number % 3
            for times in range(asked[cookie(one.client)]):
                message = query("a.example.")
                answer = response(message, A)
                one.ask(message)
                time.sleep(0.002 * times)  # latencies of several bins
                one.server.sendto(answer, one.client.getsockname())
                one.client.recv(65_536)
        parts = [probe.drain()]
        one.exchange(query("a.example."))  # belongs to the next reading
        while probe.more:
            parts.append(probe.drain())
        assert [int(part.counts["queries"].sum()) for part in (probe.drain(), probe.drain())] == [2, 0]
    assert len(parts) > 200 // 32
    told = {}
    for part in parts:
        assert len(part.peers) <= 32
        assert np.isin(part.bins["entry"], part.counts["number"]).all()
        for entry in range(len(part.peers)):
            of_bins = part.bins["entry"] == part.counts["number"][entry]
            timed = part.counts["latency_bin_count"][entry] + part.bin_counts[of_bins].sum()
            assert timed == part.counts["latency_count"][entry] == part.counts["queries"][entry]
            if part.peers["role"][entry] == CLIENT:
                assert int(part.peers["cookie"][entry]) not in told
                told[int(part.peers["cookie"][entry])] = int(part.counts["queries"][entry])
    assert told == asked


@pytest.mark.parametrize("connected", [False, True], ids=["unconnected", "connected"])
@pytest.mark.parametrize("address", LOOPBACK.values(), ids=LOOPBACK)
def test_every_result_at_both_ends(host, probe, address, connected):
    with open_socket(host, address) as client, open_socket(host, address, 53) as server:
        both = Udp(client, server)
        if connected:
            client.connect((address, 53))
            both.ask = lambda message: (client.send(message), server.recvfrom(65_536))[1]
        codes = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "NOTZONE", "BADVERS")
        for times, code in enumerate(codes, 1):
            for _ in range(times):
                both.exchange(query("a.example."), *([A] if code == "NOERROR" else []), rcode=code)
        traffic = probe.drain()
        expected = {
            "queries": 45,
            "noerror": 1,
            "formerr": 2,
            "servfail": 3,
            "nxdomain": 4,
            "notimp": 5,
            "refused": 6,
            "other": 7 + 8 + 9,
        }
        assert counted(traffic, client, role=CLIENT) == expected
        assert counted(traffic, server, role=SERVER) == expected
        assert len(traffic.peers) == 2
        of_client = traffic.peers[traffic.peers["cookie"] == cookie(client)][0]
        assert bytes(of_client["local_address"]) == bytes(of_client["remote_address"]) == packed(address)
        assert (of_client["local_port"], of_client["remote_port"]) == (client.getsockname()[1], 53)
        assert of_client["transport"] == socket.IPPROTO_UDP
        assert not len(probe.drain().peers)
        assert probe.counter("dns_messages_malformed") == probe.counter("dns_answers_unmatched") == 0


@pytest.mark.parametrize(
    ("kind", "records", "options", "result"),
    [
        ("A", [], {}, "nodata"),
        ("AAAA", [("a.example.", 60, "CNAME", "b.example.")], {}, "nodata"),
        ("A", [("a.example.", 60, "CNAME", "b.example."), ("b.example.", 60, "A", "192.0.2.1")], {}, "noerror"),
        ("AAAA", [("a.example.", 60, "AAAA", "2001:db8::1")], {}, "noerror"),
        ("CNAME", [("a.example.", 60, "CNAME", "b.example.")], {}, "noerror"),
        ("ANY", [("a.example.", 60, "TXT", "x")], {}, "noerror"),
        ("HTTPS", [("a.example.", 60, "HTTPS", "1 . alpn=h2")], {}, "noerror"),
        ("A", [(f"a{n}.example.", 60, "CNAME", f"a{n + 1}.example.") for n in range(39)], {}, "nodata"),
        ("A", [(f"a{n}.example.", 60, "CNAME", f"a{n + 1}.example.") for n in range(41)], {}, "noerror"),
        ("A", [], {"truncated": True}, "noerror"),
        ("A", [], {"truncated": True, "rcode": "SERVFAIL"}, "servfail"),
        ("A", [], {"question": False, "rcode": "FORMERR"}, "formerr"),
    ],
    ids=[
        *("nothing", "an alias alone", "an alias and an address", "AAAA alone", "the alias itself", "any", "HTTPS"),
        *("aliases up to the limit", "more than are looked at", "truncated", "truncated failure", "without question"),
    ],
)
def test_what_counts_as_data(probe, udp, *, kind, records, options, result):
    udp.exchange(query("a.example.", kind), *records, **options)
    traffic = probe.drain()
    assert counted(traffic, udp.client) == counted(traffic, udp.server) == {"queries": 1, result: 1}


def test_a_query_sent_again_counts_once_and_its_time_runs_from_the_first(probe, udp):
    message, answer = query("a.example."), response(query("a.example."), A)
    begun = time.monotonic_ns()
    udp.ask(message)
    time.sleep(0.1)
    udp.exchange(message, A)
    elapsed_ns = time.monotonic_ns() - begun
    udp.server.sendto(answer, udp.client.getsockname())  # the answer to the other one
    traffic = probe.drain()
    for sock in (udp.client, udp.server):
        assert counted(traffic, sock) == {"queries": 1, "retransmits": 1, "noerror": 1}
    assert (traffic.counts["latency_sum_ns"] > 0.1 * SECOND_NS).all()
    assert (traffic.counts["latency_sum_ns"] < elapsed_ns).all()
    octaves = np.log2(traffic.counts["latency_sum_ns"] * (2**30 / 1e9))
    assert (traffic.counts["latency_bin"] - 1).tolist() == (octaves * 8).astype(int).tolist()
    assert traffic.counts["latency_bin_count"].tolist() == [1, 1]
    assert not len(traffic.bins)
    assert probe.counter("dns_answers_unmatched") == 2


def test_queries_of_one_id_are_told_apart_by_question_and_server(host, probe, udp):
    with open_socket(host, "127.0.0.2", 53) as other:
        questions = [query("a.example.", number=7), query("b.example.", number=7), query("a.example.", "AAAA", 7)]
        asked = [udp.ask(message)[0] for message in questions]
        udp.client.sendto(questions[0], other.getsockname())
        other.recv(4096)
        other.sendto(response(asked[0], rcode="REFUSED"), udp.client.getsockname())
        for message, code in zip(reversed(asked), ("SERVFAIL", "NXDOMAIN", "NOTIMP"), strict=True):
            udp.ask(message)  # again
            udp.server.sendto(response(message, rcode=code), udp.client.getsockname())
        traffic = probe.drain()
        of_server = np.void(packed("127.0.0.1"))
        assert counted(traffic, udp.client, remote_address=of_server) == {
            "queries": 3,
            "retransmits": 3,
            "servfail": 1,
            "nxdomain": 1,
            "notimp": 1,
        }
        assert counted(traffic, udp.client) == counted(traffic, udp.server) | {"queries": 4, "refused": 1}


def test_names_match_in_any_case_and_of_any_length(probe, udp):
    for name in ("A.ExAmPlE.", ".".join(["x" * 61] * 4) + ".", "1.2.3.4.5.6.7.8.9.ip6.arpa.", "."):
        asked, client = udp.ask(query(name))
        swapped = response(asked).swapcase()
        answer = response(asked)
        end = answer.index(b"\0", 12)
        udp.server.sendto(answer[:12] + swapped[12:end] + answer[end:], client)
    traffic = probe.drain()
    assert counted(traffic, udp.client) == counted(traffic, udp.server) == {"queries": 4, "nodata": 4}


def test_a_query_without_answer_times_out_once(probe, udp):
    message = query("a.example.")
    asked, client = udp.ask(message)
    assert not len(probe.expire())
    assert probe.queries_open == 2
    time.sleep(TIMEOUT_S + 0.1)
    udp.server.sendto(response(asked, A), client)  # too late
    expired = probe.expire()
    assert sorted(expired["peer"]["cookie"].tolist()) == sorted(map(cookie, (udp.client, udp.server)))
    assert not len(probe.expire())
    assert probe.counter("dns_answers_unmatched") == 2
    traffic = probe.drain()
    assert counted(traffic, udp.client) == counted(traffic, udp.server) == {"queries": 1}


def test_a_query_sent_again_after_its_time_is_another_one(probe, udp):
    message = query("a.example.")
    udp.ask(message)
    time.sleep(TIMEOUT_S + 0.1)
    udp.exchange(message, A)
    traffic = probe.drain()
    for sock in (udp.client, udp.server):
        assert counted(traffic, sock) == {"queries": 2, "timeouts": 1, "noerror": 1}
    assert not len(probe.expire())


def test_who_asked_by_a_socket_that_no_poll_saw(host, probe):
    program = (
        "import socket, sys; socket.socket(type=socket.SOCK_DGRAM).sendto(sys.stdin.buffer.read(), ('127.0.0.1', 53))"
    )
    with host.entered():
        ended = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    ended.communicate(query("a.example."), 20)
    owner = probe.drain().counts["owner"]
    assert owner["pid"].tolist() == [ended.pid]
    time.sleep(TIMEOUT_S + 0.1)
    assert probe.expire()["owner"]["pid"].tolist() == [ended.pid]


@pytest.mark.parametrize("connected", [False, True], ids=["unconnected", "connected"])
def test_a_server_whose_address_is_translated(host, probe, udp, connected):
    rule = "ip daddr 192.0.2.53 udp dport 53 dnat to 127.0.0.1"
    chain = f"chain output {{ type nat hook output priority -100; {rule}; }}"
    host.run("nft", "-f", "-", input=f"table ip nat {{\n{chain}\n}}\n")
    host.run("ip", "route", "add", "192.0.2.53", "dev", "lo")
    if connected:
        udp.client.connect(("192.0.2.53", 53))
        udp.client.send(query("a.example."))
    else:
        udp.client.sendto(query("a.example."), ("192.0.2.53", 53))
    asked, client = udp.server.recvfrom(4096)
    udp.server.sendto(response(asked, A), client)
    udp.client.recv(4096)
    traffic = probe.drain()
    assert counted(traffic, udp.client) == counted(traffic, udp.server) == {"queries": 1, "noerror": 1}
    of_client = traffic.peers[traffic.peers["cookie"] == cookie(udp.client)]
    assert [bytes(each) for each in of_client["remote_address"]] == [packed("192.0.2.53" if connected else "127.0.0.1")]


def test_queries_that_the_kernel_cuts_into_datagrams(probe, udp):
    messages = [query(f"{number:03}.example.") for number in range(40)]
    udp.client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, len(messages[0]))
    udp.client.sendto(b"".join(messages), udp.server.getsockname())
    for _ in messages:
        udp.server.recv(4096)
    traffic = probe.drain()
    assert counted(traffic, udp.client) == counted(traffic, udp.server) == {"queries": 40}


def test_answers_are_told_again_only_where_their_addresses_differ(probe, udp):
    two = ("a.example.", 60, "A", "192.0.2.1", "192.0.2.2")
    udp.exchange(query("a.example."), two)
    udp.exchange(query("A.example."), ("A.example.", 31, "A", "192.0.2.2"), ("A.example.", 31, "A", "192.0.2.1"))
    (told,) = probe.answers()
    assert sorted(read_answer(told.content).addresses) == [packed("192.0.2.1"), packed("192.0.2.2")]
    udp.exchange(query("a.example."), two)
    assert probe.answers() == []
    udp.exchange(query("a.example."), ("a.example.", 60, "A", "192.0.2.3"))
    udp.exchange(query("b.example."), ("b.example.", 60, "A", "192.0.2.1"))
    udp.exchange(query("c.example."), rcode="NXDOMAIN")
    assert [read_answer(each.content).name for each in probe.answers()] == ["a.example", "b.example"]


@pytest.mark.parametrize(("count", "whole"), [(80, True), (240, True), (256, False)])
def test_long_answers_are_told_up_to_a_limit(probe, udp, count, whole):
    addresses = {f"192.0.2.{number}" for number in range(count)}
    udp.exchange(query("a.example."), ("a.example.", 60, "A", *addresses))
    (told,) = probe.answers()
    assert told.whole == whole
    found = read_answer(told.content, whole=told.whole)
    assert set(found.addresses) <= set(map(packed, addresses))
    assert len(found.addresses) == count if whole else len(found.addresses) > 245


def test_hostile_messages_are_counted_and_no_more(probe, udp):
    chance = random.Random(7)
    message = query("a.example.")
    answer = response(message, A, ("b.", 60, "CNAME", "c."))
    packets = [bytes(chance.randbytes(chance.randrange(0, 300))) for _ in range(300)]
    packets += [message[:length] for length in range(len(message))]
    packets += [answer[:length] for length in range(len(answer))]
    for _ in range(500):
        changed = bytearray(chance.choice((message, answer)))
        for _ in range(chance.randrange(1, 5)):
            changed[chance.randrange(len(changed))] = chance.choice((0, 0xC0, 0xFF, chance.randrange(256)))
        packets.append(bytes(changed))
    packets.append(message[:12] + b"\x3f" + b"x" * 63 + (b"\x3f" + b"x" * 63) * 5 + b"\0\0\1\0\1")
    packets.append(answer[:6] + b"\xff" * 6 + answer[12:])
    for packet in packets:
        udp.client.sendto(packet, udp.server.getsockname())
        udp.server.recv(4096)
        udp.server.sendto(packet, udp.client.getsockname())
        udp.client.recv(4096)
    assert probe.counter("dns_messages_malformed") > 1000
    probe.drain()
    for told in probe.answers():
        with contextlib.suppress(ValueError):
            read_answer(told.content, whole=told.whole)
    udp.exchange(query("still.example."), ("still.example.", 60, "A", "192.0.2.1"))
    assert counted(probe.drain(), udp.client) == {"queries": 1, "noerror": 1}


def test_other_network_namespaces_are_passed_over(probe):
    with contextlib.closing(Network()) as elsewhere, open_socket(elsewhere.centre, "127.0.0.1") as other:
        other.sendto(query("a.example."), ("127.0.0.1", 53))
        assert not len(probe.drain().peers)


def test_nothing_is_lost_or_told_twice_while_maps_are_exchanged(host, probe):
    program = (
        "import socket, sys; message = sys.stdin.buffer.read(); s = socket.socket(type=socket.SOCK_DGRAM)\n"
        "for n in range(40_000): s.sendto(n.to_bytes(2) + message[2:], ('127.0.0.1', 53))"
    )
    with host.entered():
        sender = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    sender.stdin.write(query("a.example."))
    sender.stdin.close()
    parts, expired = [], []
    while sender.poll() is None:
        parts.append(probe.drain().counts)
        expired.append(probe.expire())
    time.sleep(TIMEOUT_S + 0.1)
    parts.append(probe.drain().counts)
    expired.append(probe.expire())
    assert sum(int(part["queries"].sum()) for part in parts) == 40_000
    assert sum(len(part) for part in expired) == 40_000
    assert sum(len(part) > 0 for part in parts) > 2
    assert probe.counter("dns_messages_untracked") == 0
