"""The HTTP probe alone, against what this test itself sent and answered, byte for byte, on the running kernel."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from kernel_collector.bpf.libbpf import ITERATOR_READ_BYTES
from kernel_collector.http.probe import HttpProbe
from kernel_collector.http.rows import http_rows
from kernel_collector.machine.network_namespaces import NetworkNamespace
from kernel_collector.packets import Packets
from tests.lab.http_connection import (
    Connection,
    Since,
    Told,
    both,
    nobodys,
    sent_again,
    tables,
    told,
)
from tests.lab.network import Network
from tests.lab.waiting import wait_until

LOOPBACK = {"ipv4": "127.0.0.1", "ipv6": "::1"}
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
PIPELINED = 16  # requests of a socket whose times are kept


@pytest.fixture(scope="module")
def host():
    with contextlib.closing(Network()) as network:
        yield network.centre


@pytest.fixture(scope="module")
def open_probe(host):
    """Open a probe that is limited to the host."""
    with contextlib.ExitStack() as stack:

        def opened():
            namespace = stack.enter_context(NetworkNamespace(host.namespace))
            packets = stack.enter_context(Packets(Path("/proc"), ("http",), frozenset([namespace.inode])))
            return stack.enter_context(contextlib.closing(HttpProbe(packets)))

        yield opened


@pytest.fixture(scope="module")
def shared_probe(open_probe):
    return open_probe()


@pytest.fixture
def probe(shared_probe):
    return Since(shared_probe)


@pytest.fixture
def connection(host, probe):
    with contextlib.closing(Connection(host)) as opened:
        yield opened


@pytest.mark.parametrize("address", LOOPBACK.values(), ids=LOOPBACK)
def test_keep_alive(host, probe, address):
    with contextlib.closing(Connection(host, address)) as connection:
        for status in (200, 404, 200, 503):
            connection.ask(GET)
            connection.answer(b"HTTP/1.1 %d Whatever\r\nContent-Length: 2\r\n\r\nok" % status)
        found = tables(probe)["http"]
        order = np.argsort(found["role"])
        assert found["role"][order].tolist() == [intake_pb2.ROLE_CONNECTOR, intake_pb2.ROLE_ACCEPTOR]
        assert found["socket"][order].tolist() == [connection.client_cookie, connection.server_cookie]
        assert found["local_port"][order].tolist() == [
            s.getsockname()[1] for s in (connection.client, connection.server)
        ]
        assert found["remote_port"][order].tolist() == [
            s.getpeername()[1] for s in (connection.client, connection.server)
        ]
        for name, expected in (("requests", 4), ("status_2xx", 2), ("status_4xx", 1), ("status_5xx", 1)):
            assert found[name].tolist() == [expected, expected]
        assert not told(probe)
        connection.ask(GET)
        assert both(probe, connection) == Told(1, {}, 0)
        connection.answer(OK)
        assert both(probe, connection) == Told(0, {200: 1}, 1)


def test_latency_is_from_the_first_byte_of_the_request_to_the_first_of_the_response(probe, connection):
    start_s = time.monotonic()
    connection.ask(GET[:2])
    time.sleep(0.1)
    connection.ask(GET[2:])
    time.sleep(0.1)
    connection.answer(OK[:3])
    until_answered_us = (time.monotonic() - start_s) * 1e6
    time.sleep(0.3)
    connection.answer(OK[3:])
    found = tables(probe)["http"]
    assert (found["latency_sum_us"] > 200_000).all()
    assert (found["latency_sum_us"] < until_answered_us).all()
    bins = found["latency_bin"].astype(int) - 1
    expected = np.floor(8 * np.log2(found["latency_sum_us"] * 1e-6 * 2**30))
    assert np.abs(np.sort(bins) - np.sort(expected)).max() <= 1  # the sum is cut to microseconds


@pytest.mark.parametrize("size", [1, 3, 5, 11, 12, 13, 20])
def test_heads_split_over_packets(probe, connection, size):
    connection.ask(*(GET[at : at + size] for at in range(0, len(GET), size)))
    connection.answer(*(OK[at : at + size] for at in range(0, len(OK), size)))
    connection.ask(GET)
    connection.answer(NO_CONTENT)
    assert both(probe, connection) == Told(2, {200: 1, 204: 1}, 2)
    assert probe.grown("heads_unknown") == 0


def test_what_bodies_hold_does_not_count(probe, connection):
    head = b"POST /x HTTP/1.1\r\nHost: a\r\ncontent-length: %d\r\n\r\n" % (2 * len(GET))
    connection.ask(head, GET, GET)
    connection.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * len(OK)), OK, OK)
    connection.ask(head + GET, GET)
    connection.answer(CHUNKED, b"29\r\n", OK + b"\r\n", b"0\r\n\r\n")
    connection.ask(
        b"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"1b\r\n", GET, b"\r\n0\r\n\r\n"
    )
    connection.answer(OK)
    connection.ask(GET)
    connection.answer(OK)
    assert both(probe, connection) == Told(4, {200: 4}, 4)
    assert probe.grown("heads_unknown") == 0


def test_pipelining_in_one_packet(probe, connection):
    connection.ask(GET * 5)
    connection.answer(OK + OK, OK, CHUNKED + b"1\r\na\r\n0\r\n\r\n" + NO_CONTENT)
    assert both(probe, connection) == Told(5, {200: 4, 204: 1}, 5)
    head = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + GET + b"x" * (100 - len(GET))
    connection.ask(head + GET + post + GET)
    long = b"HTTP/1.1 201 Created\r\nContent-Length: 3000\r\n\r\n" + OK + b"x" * (3000 - len(OK))
    not_modified = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n"
    connection.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + not_modified + long[:100], long[100:] + OK)
    assert both(probe, connection) == Told(4, {200: 2, 304: 1, 201: 1}, 4)
    assert probe.grown("heads_unknown") == probe.grown("packets_cut") == 0


def test_pipelined_one_after_the_other(probe, connection):
    connection.ask(GET, GET, GET)
    connection.answer(OK)
    connection.ask(GET)
    connection.answer(OK, CHUNKED, b"1\r\n", b"a\r\n", b"0\r\n\r\n", OK)
    assert both(probe, connection) == Told(4, {200: 4}, 4)
    connection.ask(GET)
    connection.answer(OK)
    assert both(probe, connection) == Told(1, {200: 1}, 1)
    assert probe.grown("heads_unknown") == 0


def test_beyond_the_bound_all_is_counted_and_some_not_timed(probe, connection):
    connection.ask(GET * 100)
    connection.answer(OK * 60, OK * 40)
    assert both(probe, connection) == Told(100, {200: 100}, PIPELINED)
    assert probe.grown("requests_untimed") == 2 * (100 - PIPELINED)
    connection.ask(GET)
    connection.answer(OK)
    assert both(probe, connection) == Told(1, {200: 1}, 1)
    assert probe.grown("packets_cut") == 0


def test_latencies_of_pipelined_requests_are_matched_in_order(probe, connection):
    began = []
    for _ in range(3):
        began.append(time.monotonic())
        connection.ask(GET)
        time.sleep(0.05)
    connection.answer(OK, OK, OK)
    at_most_ms = 1e3 * sum(time.monotonic() - asked for asked in began)
    found = tables(probe)["http"]["latency_sum_us"] / 1e3
    assert ((found > 300) & (found < at_most_ms)).all()  # 150 + 100 + 50 ms, and more on a busy machine


def test_informational_responses_are_none(probe, connection):
    connection.ask(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    connection.answer(b"HTTP/1.1 100 Continue\r\n\r\n")
    connection.ask(b"abc")
    connection.answer(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK)
    assert both(probe, connection) == Told(1, {200: 1}, 1)
    connection.ask(GET)
    connection.answer(OK)
    assert both(probe, connection) == Told(1, {200: 1}, 1)


def test_responses_that_nobody_asked_for_do_not_count(probe, connection):
    connection.ask(GET)
    connection.answer(OK + OK)
    connection.ask(GET + GET)
    connection.answer(OK + OK + OK)
    connection.answer(OK)
    assert both(probe, connection) == Told(3, {200: 3}, 3)


def test_a_body_that_the_server_does_not_want(probe, connection):
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    for _ in range(3):
        connection.ask(head)
        connection.answer(b"HTTP/1.1 417 no\r\nContent-Length: 0\r\n\r\n")
        connection.ask(GET)
        connection.answer(OK)
        connection.ask(head)
        connection.answer(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.ask(b"GET / HTTP"[:9])
        connection.answer(OK)
    assert both(probe, connection) == Told(9, {200: 6, 417: 3}, 9)


def test_after_an_upgrade_it_is_http_no_more(probe, connection):
    connection.ask(b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    connection.answer(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
    connection.ask(GET)
    connection.answer(OK)
    assert both(probe, connection) == Told(1, {101: 1}, 1)


def test_a_tunnel_is_http_no_more_and_a_refused_one_is(probe, connection):
    connect = b"CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n"
    connection.ask(connect)
    connection.answer(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    connection.ask(connect)
    connection.answer(b"HTTP/1.1 200 Connection established\r\n\r\n")
    connection.ask(GET)
    connection.answer(OK)
    assert both(probe, connection) == Told(2, {407: 1, 200: 1}, 2)


def test_head_requests(probe, connection):
    head = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
    for _ in range(3):
        connection.ask(head)
        connection.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    assert both(probe, connection) == Told(3, {200: 3}, 3)


def test_methods_that_are_not_common(probe, connection):
    for method in (b"PROPFIND", b"PURGE", b"MKCALENDAR", b"M-SEARCH", b"OPTIONS", b"PATCH", b"DELETE", b"TRACE"):
        connection.ask(method + GET[3:])
        connection.answer(OK)
    assert both(probe, connection) == Told(8, {200: 8}, 8)


def test_empty_lines_before_requests(probe, connection):
    """RFC 9112, 2.2: some clients send one behind the body of a request; whether in its packet or the next."""
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    for parts in ((post,), (b"\r\n" + GET,), (post, b"\r\n"), (b"\r\n" + post + b"\r\n",), (GET,)):
        connection.ask(*parts)
        connection.answer(OK)
    connection.ask(post + b"\r\n" + GET)
    connection.answer(OK + OK)
    assert both(probe, connection) == Told(7, {200: 7}, 7)


def test_long_heads(probe, connection):
    long = b"GET /%s HTTP/1.1\r\nHost: a\r\nCookie: %s\r\n\r\n" % (b"x" * 3000, b"y" * 5000)
    for parts in ((long,), (long[:1000], long[1000:]), (long + GET,)):
        connection.ask(*parts)
        connection.answer(OK)
    connection.answer(OK)
    assert both(probe, connection) == Told(4, {200: 4}, 4)


def test_other_protocols_have_no_entry(host, probe):
    first = {
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "Redis": b"GET some-key-that-is-long\r\n",
        "Redis, short": b"GET key\r\n",
        "SMTP": b"HELO example.com\r\nMAIL FROM:<a@b>\r\n",
        "text": b"HTTP is a protocol, and so on, for a line\n",
    }
    for data in first.values():
        with contextlib.closing(Connection(host)) as connection:
            connection.ask(data, data)
            connection.answer(data, b"x")
    assert not told(probe)


def test_sockets_that_were_open_before(host, open_probe):
    with contextlib.closing(Connection(host)) as idle, contextlib.closing(Connection(host)) as waiting:
        idle.ask(GET)
        idle.answer(OK)
        waiting.ask(GET)
        probe = open_probe()
        idle.ask(GET)
        idle.answer(OK)
        waiting.answer(OK)  # its request was before: it has no latency
        waiting.ask(GET)
        waiting.answer(NO_CONTENT)
        assert both(probe, waiting) == Told(2, {200: 1, 204: 1}, 1)
        idle.ask(GET)
        idle.answer(OK)
        assert both(probe, idle) == Told(1, {200: 1}, 1)


def test_a_response_to_nothing_is_none(host, probe):
    connection = Connection(host)
    connection.answer(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
    assert both(probe, connection) == Told(0, {}, 0)
    connection.ask(GET)
    connection.answer(OK)
    assert both(probe, connection) == Told(1, {200: 1}, 1)
    connection.close()


def test_sockets_that_end_between_two_polls(host, probe):
    cookies = []
    for _ in range(50):
        with contextlib.closing(Connection(host)) as connection:
            connection.ask(GET)
            connection.answer(OK)
            cookies += [connection.client_cookie, connection.server_cookie]
    assert told(probe) == dict.fromkeys(cookies, Told(1, {200: 1}, 1))
    assert probe.grown("events_lost") == 0


def test_more_statuses_than_there_is_room_for(probe, connection):
    statuses = [*range(200, 208), *range(400, 418), 999]
    for status in statuses:
        connection.ask(GET)
        connection.answer(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
    found = tables(probe)
    http, bins = found["http"], found["bins"]
    for name, expected in (("requests", 27), ("status_2xx", 8), ("status_4xx", 18), ("status_other", 1)):
        assert http[name].tolist() == [expected, expected]
    of_status = bins["kind"] == intake_pb2.BIN_KIND_HTTP_STATUS
    assert Counter(bins["bin"][of_status].tolist()) == dict.fromkeys(statuses[:16], 2)


def test_what_is_lost_and_sent_again_counts_once(host, probe, connection):
    rules = f"tcp dport {connection.server.getsockname()[1]} drop"
    host.firewall("loss", input_rules=rules)
    connection.client.sendall(GET)
    wait_until(lambda: sent_again(connection.client) > 0, 60, "it to be sent again")
    host.firewall("loss")
    assert connection.server.recv(100) == GET
    host.firewall("loss", input_rules=f"tcp sport {connection.server.getsockname()[1]} drop")
    connection.server.sendall(OK)
    wait_until(lambda: sent_again(connection.server) > 0, 60, "it to be sent again")
    host.firewall("loss")
    assert connection.client.recv(100) == OK
    assert both(probe, connection) == Told(1, {200: 1}, 1)


def test_a_response_whose_head_is_lost_first(host, probe, connection):
    """The body arrives before the head, which is sent again."""
    connection.ask(GET)
    port = connection.server.getsockname()[1]
    head, body = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n", b"x" * 3000
    # The first bytes of the payload, after a TCP header with time stamps.
    host.firewall("loss", input_rules=f"tcp sport {port} @th,256,32 0x48545450 drop")
    connection.server.sendall(head)
    connection.server.sendall(body)
    time.sleep(0.1)
    host.firewall("loss")
    read = 0
    while read < len(head + body):
        read += len(connection.client.recv(10_000))
    assert sent_again(connection.server)
    connection.ask(GET)
    connection.answer(OK)
    assert both(probe, connection) == Told(2, {200: 2}, 2)


def test_a_request_body_with_a_gap(host, probe, connection):
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n"
    connection.ask(head)
    host.firewall("loss", input_rules=f"tcp dport {connection.server.getsockname()[1]} @th,256,32 0x78787878 drop")
    connection.client.sendall(b"x" * 4000)
    connection.client.sendall(b"y" * 5000)
    time.sleep(0.1)
    host.firewall("loss")
    read = 0
    while read < 9000:
        read += len(connection.server.recv(10_000))
    assert sent_again(connection.client)
    connection.answer(OK)
    connection.ask(GET)
    connection.answer(OK)
    assert both(probe, connection) == Told(2, {200: 2}, 2)
    assert probe.grown("heads_unknown") == 0


def test_early_answers_and_requests_with_unexpected_bodies(probe, connection):
    connection.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6000\r\n\r\n", b"x" * 3000)
    connection.answer(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    connection.ask(b"x" * 3000, GET)
    connection.answer(OK)
    connection.ask(b"GET /search HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n", b'{"a": 1}')
    connection.answer(OK)
    connection.ask(GET)
    connection.answer(OK)
    assert both(probe, connection) == Told(4, {413: 1, 200: 3}, 4)


def test_a_poll_of_more_than_the_kernel_gives_at_once(host, probe):
    """What finds no room in the buffer of one read is told in the next."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(contextlib.closing(Connection(host))) for _ in range(60)]
        for connection in opened:
            for status in range(200, 216):
                connection.ask(GET)
                connection.answer(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
        found = probe.poll()
        assert found.nbytes > ITERATOR_READ_BYTES
        rows = http_rows(found, nobodys)["http"]
        assert rows["status_2xx"].tolist() == rows["latency_count"].tolist() == [16] * 120


def test_pipelined_responses_split_anywhere(probe, connection):
    posted = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(GET)
    asked = GET + posted + GET + GET  # the second GET is a body
    answered = OK + CHUNKED + b"1\r\na\r\n0\r\n\r\n" + OK
    connection.ask(GET * 2)  # from here on it is known to pipeline
    connection.answer(OK * 2)
    assert both(probe, connection) == Told(2, {200: 2}, 2)
    for at in range(1, len(answered)):
        connection.ask(asked)
        connection.answer(answered[:at], answered[at:])
        assert both(probe, connection) == Told(3, {200: 3}, 3), at
    for at in range(1, len(asked)):
        connection.ask(asked[:at], asked[at:])
        connection.answer(answered)
        assert both(probe, connection) == Told(3, {200: 3}, 3), at
    assert probe.grown("heads_unknown") == 0
