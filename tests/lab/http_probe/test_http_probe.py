"""The HTTP probe alone, against what this test itself sent and answered, byte for byte, on the running kernel."""

from __future__ import annotations

import contextlib
import time
from collections import Counter

import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from kernel_collector.bpf.libbpf import ITERATOR_READ_BYTES
from kernel_collector.http.rows import http_rows
from tests.lab.http_connection import (
    GET,
    LOOPBACK,
    NO_CONTENT,
    OK,
    Connection,
    Told,
    both,
    nobodys,
    opened_probe,
    tables,
    told,
)


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


def test_sockets_that_were_open_before(host):
    with (
        contextlib.ExitStack() as stack,
        contextlib.closing(Connection(host)) as idle,
        contextlib.closing(Connection(host)) as waiting,
    ):
        idle.ask(GET)
        idle.answer(OK)
        waiting.ask(GET)
        probe = stack.enter_context(opened_probe(host))
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
